// Answers every request over TLS: node tls_serve.mjs PORT CERTIFICATE KEY
import https from "node:https";
import fs from "node:fs";
const [port, certificate, key] = process.argv.slice(2);
https
  .createServer({ cert: fs.readFileSync(certificate), key: fs.readFileSync(key) }, (_, answer) => answer.end("hello\n"))
  .listen(Number(port));
