"""The config: read strictly, once, into frozen typed settings.

``values`` and ``settings`` say what there may be, ``loader`` reads it, ``subprocess_loader`` reads
it for the daemon in another process, ``last_good`` keeps what worked.
"""
