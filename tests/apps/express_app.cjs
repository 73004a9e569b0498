// Express decompresses gzip and accepts at most 100 kB.
const fs = require('fs');
const express = require('express');
const app = express();
app.use(express.json());
app.post('/', (request, response) => {
  const { stream, device, fixes } = request.body;
  const lines = fixes.map((fix) => `${JSON.stringify({ ...fix, stream, device })}\n`);
  fs.appendFileSync(process.env.STORED, lines.join(''));
  response.json({ received: fixes.length });
});
app.listen(process.env.PORT, '127.0.0.1');
