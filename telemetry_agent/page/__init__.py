"""The device page: who stands before the device sees where each position is.

A thread of its own runs an event loop with a small web server. It looks at the agent from outside,
through what it is given, and nothing that a viewer does can hold up a fix. Starlette and uvicorn
are imported only when the page is on.
"""
