// Fetches a page over TLS and ends: node tls_fetch.mjs ADDRESS PORT SERVER_NAME CA_FILE
import tls from "node:tls";
import fs from "node:fs";
const [address, port, servername, ca] = process.argv.slice(2);
const socket = tls.connect(
  { host: address, port: Number(port), servername, ca: fs.readFileSync(ca), ALPNProtocols: ["http/1.1"] },
  () => socket.write(`GET / HTTP/1.1\r\nHost: ${servername}\r\nConnection: close\r\n\r\n`),
);
socket.on("data", () => {});
socket.on("error", (error) => { console.error(error.message); process.exit(1); });
