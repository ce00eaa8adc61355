# Clients of ruby-stomp for a test. One command in JSON on a line of standard input, and one answer or event on a line of
# standard output: {"command": n, "error": text or absent} or {"client": n, "event": name, …}.

require "base64"
require "json"
require "stomp"

$stdout.sync = true
LINES = Mutex.new
ANSWER_TIMEOUT = 10

def tell(line)
  LINES.synchronize { puts JSON.generate(line) }
end

# One connection. The library tells of an ERROR frame by raising into the thread that made the client, wherever that is by
# then: so it is made by one that has nothing else to do. The end of the connection, which follows, is seen by all.
class Driven
  def initialize(number, setup)
    @number = number
    @messages = {}
    beats = setup["heartBeat"]
    headers = { "accept-version" => setup["version"], "host" => "/", "heart-beat" => "#{beats},#{beats}" }
    host = { login: setup["login"], passcode: setup["passcode"], host: setup["host"], port: setup["port"] }
    @client = Thread.new { Stomp::Client.new(hosts: [host], reliable: false, connect_headers: headers) }.value
    error = @client.connection_frame
    raise error.body if error.command == "ERROR"
  end

  def subscribe(destination:, ack:)
    answered do |receipt|
      @client.subscribe(destination, ack: ack) { |message| took(message) }
      receipt.call # ruby-stomp has no receipts for SUBSCRIBE; what is sent next comes after it
    end
  end

  def send_message(destination:, body:, headers:)
    answered { |receipt| @client.publish(destination, Base64.decode64(body), headers) { receipt.call } }
  end

  def transact(destination:, bodies:, commit:)
    @client.begin("tx-#{@number}")
    bodies.each { |body| @client.publish(destination, Base64.decode64(body), transaction: "tx-#{@number}") }
    commit ? @client.commit("tx-#{@number}") : @client.abort("tx-#{@number}")
  end

  def ack(number:)
    @client.ack(@messages.fetch(number))
  end

  def nack(number:)
    @client.nack(@messages.fetch(number))
  end

  def disconnect
    @client.close(receipt: "bye")
  rescue Stomp::Error::NoCurrentConnection
    nil # the server has closed it
  ensure
    tell(client: @number, event: "close")
  end

  def drop
    @client.instance_variable_get(:@listener_thread).exit
    @client.instance_variable_get(:@connection).instance_variable_get(:@socket).close
    tell(client: @number, event: "close")
  end

  private

  def ended
    tell(client: @number, event: "close")
    raise "the connection has ended"
  end

  def took(message)
    return unless message.command == "MESSAGE"

    number = message.object_id
    @messages[number] = message
    tell(client: @number, event: "message", number: number, body: Base64.strict_encode64(message.body), headers: message.headers)
  end

  def answered
    answers = Queue.new
    yield -> { answers << true }
    deadline = Time.now + ANSWER_TIMEOUT
    while answers.empty?
      raise "no receipt" if Time.now > deadline
      ended unless @client.running
      sleep 0.002
    end
  end
end

clients = {}
STDIN.each_line do |line|
  details = JSON.parse(line)
  command, number, action = %w[command client action].map { |name| details.delete(name) }
  begin
    if action == "connect"
      clients[number] = Driven.new(number, details)
    else
      action = "send_message" if action == "send"
      clients.fetch(number).public_send(action, **details.transform_keys(&:to_sym))
    end
    tell(command: command)
  rescue StandardError => error
    tell(command: command, error: error.message)
  end
end
