"""The config: read strictly, once, into frozen typed settings.

``values`` and ``settings`` define what is allowed, ``loader`` reads it, ``subprocess_loader`` reads
it for the daemon in another process, ``last_good`` keeps the last config that worked.
"""
