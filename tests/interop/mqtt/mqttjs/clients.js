// Clients of mqtt.js for a test. One command in JSON on a line of standard input, and one answer or event on a line of
// standard output: {"command": n, "error": text or absent, "value": …} or {"client": n, "event": name, …}.
"use strict";

const readline = require("node:readline");
const mqtt = require("mqtt");

const clients = new Map();

function tell(line) {
  process.stdout.write(JSON.stringify(line) + "\n");
}

function packed(packet) {
  const properties = packet.properties ?? {};
  return {
    topic: packet.topic,
    payload: packet.payload.toString("base64"),
    qos: packet.qos,
    retain: packet.retain,
    contentType: properties.contentType,
    responseTopic: properties.responseTopic,
    correlationData: properties.correlationData?.toString("base64"),
    userProperties: Object.entries(properties.userProperties ?? {}).flatMap(([name, value]) =>
      [value].flat().map((each) => [name, each]),
    ),
  };
}

function properties(message) {
  const said = {
    contentType: message.contentType,
    responseTopic: message.responseTopic,
    correlationData: message.correlationData && Buffer.from(message.correlationData, "base64"),
    userProperties: message.userProperties?.reduce((pairs, [name, value]) => {
      (pairs[name] ??= []).push(value);
      return pairs;
    }, {}),
  };
  return Object.fromEntries(Object.entries(said).filter(([, value]) => value !== undefined));
}

function connect(number, { url, options, will }) {
  if (will) {
    options.will = { ...will, payload: Buffer.from(will.payload, "base64") };
  }
  const client = mqtt.connect(url, { ...options, reconnectPeriod: 0 });
  clients.set(number, client);
  client.on("message", (topic, payload, packet) => tell({ client: number, event: "message", message: packed(packet) }));
  client.on("disconnect", (packet) => tell({ client: number, event: "disconnect", reason: packet.reasonCode }));
  client.on("close", () => tell({ client: number, event: "close" }));
  return new Promise((resolve, reject) => {
    client.once("connect", () => resolve());
    client.once("error", reject);
    client.once("close", () => reject(new Error("closed")));
    client.on("error", (error) => tell({ client: number, event: "error", problem: String(error) }));
  });
}

const actions = {
  connect,
  async subscribe(number, { filters, qos }) {
    const granted = await clients.get(number).subscribeAsync(filters, { qos });
    return granted.map((each) => each.qos);
  },
  async publish(number, { message }) {
    const { topic, qos, retain } = message;
    const options = { qos, retain, properties: properties(message) };
    await clients.get(number).publishAsync(topic, Buffer.from(message.payload, "base64"), options);
  },
  async disconnect(number) {
    await clients.get(number).endAsync();
  },
  async drop(number) {
    clients.get(number).stream.destroy();
  },
};

readline.createInterface({ input: process.stdin }).on("line", async (line) => {
  const { command, client, action, ...details } = JSON.parse(line);
  try {
    tell({ command, value: await actions[action](client, details) });
  } catch (error) {
    tell({ command, error: String(error) });
  }
});
