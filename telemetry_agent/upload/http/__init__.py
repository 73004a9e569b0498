"""The way of a request over the network; the only importer of httpx."""
