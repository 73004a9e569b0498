"""HTTP requests over the network; the only importer of httpx.

What is written by hand around it, and why:

- the deadline of a whole exchange (``dialer``): a timeout of httpx bounds one socket call, so a
  peer that drips one byte a second passes all of them
- the abort (``dialer``): closing an httpx client does not end a request that another thread
  waits for
- look-up and connecting (``connecting`` and ``addresses``, for the whole agent): httpx has no limit
  for a look-up, and tries the addresses of a name one after another
- sockets and TLS (``connection``): a TLS handshake must end by the same deadline and abort, and the
  bytes on the wire are counted
- no ``httpx.Client`` and no pool (``transport``): a client keeps cookies and builds the next
  request of a redirect, and a captive portal sends both; a pool keeps the first password of a proxy
- renewed secrets and certificates (``credentials``): httpx keeps those of the start
- pipelining (``pipeline``): httpx waits for each answer before it sends the next request
"""
