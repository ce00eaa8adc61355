// One connection of amqplib for a test. One command in JSON on a line of standard input, and one answer or event on a
// line of standard output: {"command": n, "error": text or absent, "value": …} or {"event": name, …}.
"use strict";

const readline = require("node:readline");
const amqp = require("amqplib");

let channel;
let returned = 0;

function tell(line) {
  process.stdout.write(JSON.stringify(line) + "\n");
}

const actions = {
  async connect({ url }) {
    const connection = await amqp.connect(url);
    connection.on("error", () => {}); // it is closed after it
    connection.on("close", () => tell({ event: "lost" }));
    channel = await connection.createConfirmChannel();
    channel.on("error", () => {});
    channel.on("return", () => (returned += 1));
  },
  async declare({ queue }) {
    const declared = await channel.assertQueue(queue, { durable: queue !== "", exclusive: queue === "" });
    return declared.queue;
  },
  async publish({ queue, message }) {
    const before = returned;
    const { replyTo, correlationId, contentType, headers } = message;
    const options = { persistent: true, mandatory: true, replyTo, correlationId, contentType, headers };
    await new Promise((resolve, reject) => {
      channel.sendToQueue(queue, Buffer.from(message.body, "base64"), options, (error) =>
        error ? reject(error) : resolve(),
      );
    });
    if (returned > before) {
      throw new Error("returned");
    }
  },
  async consume({ queue, acknowledge }) {
    await channel.consume(queue, (message) => {
      const { replyTo, correlationId, contentType, headers } = message.properties;
      tell({
        event: "message",
        message: {
          body: message.content.toString("base64"),
          redelivered: message.fields.redelivered,
          replyTo,
          correlationId,
          contentType,
          headers,
        },
      });
      if (acknowledge) {
        channel.ack(message);
      }
    });
  },
};

readline.createInterface({ input: process.stdin }).on("line", async (line) => {
  const { command, action, ...details } = JSON.parse(line);
  try {
    tell({ command, value: await actions[action](details) });
  } catch (error) {
    tell({ command, error: String(error) });
  }
});
