"""The device page shows where each position is.

A thread of its own runs an event loop with a small web server. It sees the agent through
``agent_view``, and nothing that a viewer does can delay a fix. Starlette and uvicorn are imported
only when the page is on.
"""
