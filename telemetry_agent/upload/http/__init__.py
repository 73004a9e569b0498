"""HTTP requests over the network; the only importer of httpx and h11.

What is written by hand around it, and why:

- the deadline of a whole exchange (``dialer``): a timeout of httpx bounds one socket call, so a
  peer that drips one byte a second passes all of them
- the abort (``dialer``): closing an httpx client does not end a request that another thread
  waits for
- look-up and connecting (``connecting`` and ``addresses``, for the whole agent): httpx has no limit
  for a look-up, and tries the addresses of a name one after another
- sockets and TLS (``connection``): a TLS handshake must end by the same deadline and abort, and the
  bytes on the wire are counted
- no ``httpx.Client`` (``transport``): it keeps cookies and builds the next request of a redirect,
  and a captive portal sends both
- answers (``http1``, with h11): what httpx has read beyond an answer cannot be seen, and would be
  taken for the answer to a batch that the server never saw
- renewed secrets and certificates (``credentials``): httpx keeps those of the start
- pipelining (``pipeline``): httpx waits for each answer before it sends the next request
"""
