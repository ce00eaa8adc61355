// Clients of @stomp/stompjs and stompit for a test. One command in JSON on a line of standard input, and one answer or
// event on a line of standard output: {"command": n, "error": text or absent} or {"client": n, "event": name, …}.
"use strict";

const net = require("node:net");
const readline = require("node:readline");
const { Client, Versions } = require("@stomp/stompjs");
const stompit = require("stompit");
const WebSocket = require("ws");

const clients = new Map();
let numbers = 0;

function tell(line) {
  process.stdout.write(JSON.stringify(line) + "\n");
}

function ended(number) {
  tell({ client: number, event: "close" });
}

// What stompjs wants of a WebSocket, on a TCP connection.
class TcpSocket {
  constructor(host, port) {
    this.url = `tcp://${host}:${port}`;
    this.readyState = 0;
    this.socket = net.connect(port, host, () => {
      this.readyState = 1;
      this.onopen();
    });
    this.socket.on("data", (data) => this.onmessage({ data }));
    this.socket.on("error", (error) => this.onerror(error));
    this.socket.on("close", () => {
      this.readyState = 3;
      this.onclose({ code: 1000 });
    });
  }
  send(data) {
    this.socket.write(Buffer.from(data));
  }
  close() {
    this.socket.end();
  }
  terminate() {
    this.socket.destroy();
  }
}

class StompJs {
  constructor(number, setup) {
    this.number = number;
    this.messages = new Map();
    this.receipts = 0;
    const { host, port, url, version, transport, login, passcode, heartBeat } = setup;
    const versions = new Versions([version]);
    this.client = new Client({
      webSocketFactory: () =>
        transport === "tcp" ? new TcpSocket(host, port) : new WebSocket(url, versions.protocolVersions()),
      stompVersions: versions,
      forceBinaryWSFrames: transport !== "websocket",
      connectHeaders: { login, passcode, host: "/" },
      reconnectDelay: 0,
      heartbeatIncoming: heartBeat,
      heartbeatOutgoing: heartBeat,
      onWebSocketClose: () => ended(number),
    });
  }
  connect() {
    return new Promise((resolve, reject) => {
      this.client.onConnect = () => resolve();
      this.client.onStompError = (frame) => {
        reject(new Error(frame.headers.message));
        this.refused?.(new Error(frame.headers.message));
      };
      this.client.activate();
    });
  }
  answered(start) {
    return new Promise((resolve, reject) => {
      const receipt = `receipt-${++this.receipts}`;
      this.refused = reject;
      this.client.watchForReceipt(receipt, () => resolve());
      start({ receipt });
    });
  }
  subscribe({ destination, ack }) {
    return this.answered((headers) =>
      this.client.subscribe(destination, (message) => this.took(message), { ack, ...headers }),
    );
  }
  took(message) {
    this.messages.set(++numbers, message);
    const body = Buffer.from(message.binaryBody).toString("base64");
    tell({ client: this.number, event: "message", number: numbers, body, headers: message.headers });
  }
  send({ destination, body, headers }) {
    const binaryBody = Buffer.from(body, "base64");
    return this.answered((receipt) =>
      this.client.publish({ destination, binaryBody, headers: { ...headers, ...receipt } }),
    );
  }
  async transact({ destination, bodies, commit }) {
    const transaction = this.client.begin();
    for (const body of bodies) {
      const binaryBody = Buffer.from(body, "base64");
      this.client.publish({ destination, binaryBody, headers: { transaction: transaction.id } });
    }
    commit ? transaction.commit() : transaction.abort();
  }
  async ack({ number }) {
    this.messages.get(number).ack();
  }
  async nack({ number }) {
    this.messages.get(number).nack();
  }
  async disconnect() {
    await this.client.deactivate();
  }
  async drop() {
    this.client.webSocket.terminate();
  }
}

class Stompit {
  constructor(number, setup) {
    this.number = number;
    this.setup = setup;
    this.messages = new Map();
  }
  connect() {
    const { host, port, version, login, passcode, heartBeat } = this.setup;
    const connectHeaders = { host: "/", login, passcode, "accept-version": version, "heart-beat": `${heartBeat},${heartBeat}` };
    return new Promise((resolve, reject) => {
      stompit.connect({ host, port, connectHeaders }, (error, client) => {
        if (error) {
          reject(error);
          return;
        }
        this.client = client;
        client.on("error", (problem) => this.refused?.(problem));
        client.getTransportSocket().on("close", () => ended(this.number));
        resolve();
      });
    });
  }
  async subscribe({ destination, ack }) {
    this.client.subscribe({ destination, ack }, (error, message) => {
      if (error) {
        return;
      }
      const chunks = [];
      message.on("data", (chunk) => chunks.push(chunk));
      message.on("end", () => {
        this.messages.set(++numbers, message);
        const body = Buffer.concat(chunks).toString("base64");
        tell({ client: this.number, event: "message", number: numbers, body, headers: message.headers });
      });
    });
  }
  send({ destination, body, headers }) {
    const content = Buffer.from(body, "base64");
    return new Promise((resolve, reject) => {
      this.refused = reject;
      const frame = this.client.send(
        { destination, ...headers, "content-length": content.length },
        { onReceipt: () => resolve() },
      );
      frame.end(content);
    });
  }
  transact({ destination, bodies, commit }) {
    return new Promise((resolve, reject) => {
      this.refused = reject;
      const transaction = this.client.begin();
      for (const body of bodies) {
        transaction.send({ destination }).end(Buffer.from(body, "base64"));
      }
      transaction[commit ? "commit" : "abort"]({ onReceipt: () => resolve() });
    });
  }
  async ack({ number }) {
    this.client.ack(this.messages.get(number));
  }
  async nack({ number }) {
    this.client.nack(this.messages.get(number));
  }
  disconnect() {
    return new Promise((resolve, reject) => this.client.disconnect((error) => (error ? reject(error) : resolve())));
  }
  async drop() {
    this.client.getTransportSocket().destroy();
  }
}

// stompit destroys the frame that an ERROR came in with that error, and gives nobody a way to listen to the frame.
process.on("uncaughtException", (error) => {
  if (!error.isApplicationError) {
    throw error;
  }
});

const libraries = { stompjs: StompJs, stompit: Stompit };

readline.createInterface({ input: process.stdin }).on("line", async (line) => {
  const { command, client, action, ...details } = JSON.parse(line);
  try {
    if (action === "connect") {
      clients.set(client, new libraries[details.library](client, details));
    }
    await clients.get(client)[action](details);
    tell({ command });
  } catch (error) {
    tell({ command, error: String(error) });
  }
});
