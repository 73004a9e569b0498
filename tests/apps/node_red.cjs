// Settings of Node-RED: no editor, and one flow: HTTP in, lines, file, answer.
const fs = require('fs');
const flow = [
  { id: 'tab', type: 'tab', label: 'fixes' },
  { id: 'in', z: 'tab', type: 'http in', url: '/', method: 'post', wires: [['lines']] },
  {
    id: 'lines', z: 'tab', type: 'function', outputs: 1, wires: [['file']],
    func: `const { stream, device, fixes } = msg.payload;
      msg.received = fixes.length;
      msg.payload = fixes.map((fix) => JSON.stringify({ ...fix, stream, device })).join('\\n');
      return msg;`,
  },
  {
    id: 'file', z: 'tab', type: 'file', filename: process.env.STORED, filenameType: 'str',
    appendNewline: true, overwriteFile: 'false', encoding: 'none', wires: [['said']],
  },
  {
    id: 'said', z: 'tab', type: 'function', outputs: 1, wires: [['out']],
    func: 'msg.payload = { received: msg.received }; return msg;',
  },
  { id: 'out', z: 'tab', type: 'http response', wires: [] },
];
const nodes = flow.map((node) => ({ ...node, x: 0, y: 0 })); // an entry without a position is not a node
fs.writeFileSync(`${process.env.FOLDER}/flows.json`, JSON.stringify(nodes));
module.exports = {
  uiHost: '127.0.0.1', uiPort: process.env.PORT, flowFile: 'flows.json', httpAdminRoot: false,
  userDir: process.env.FOLDER, credentialSecret: false, telemetry: { enabled: false },
};
