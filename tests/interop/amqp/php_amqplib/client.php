<?php
// One connection of php-amqplib for a test: the same commands, answers and events as those of ../amqplib/client.js.
declare(strict_types=1);

require_once 'PhpAmqpLib/autoload.php';

use PhpAmqpLib\Connection\AMQPStreamConnection;
use PhpAmqpLib\Exception\AMQPExceptionInterface;
use PhpAmqpLib\Message\AMQPMessage;
use PhpAmqpLib\Wire\AMQPTable;

const POLL_MICROSECONDS = 10000;
const CONFIRM_SECONDS = 10;
const NAMES = ['replyTo' => 'reply_to', 'correlationId' => 'correlation_id', 'contentType' => 'content_type'];

$channel = null;
$problem = null;

function tell(array $line): void
{
    fwrite(STDOUT, json_encode($line, JSON_THROW_ON_ERROR) . "\n");
}

function told(AMQPMessage $message): array
{
    $about = $message->get_properties();
    $told = ['body' => base64_encode($message->getBody()), 'redelivered' => $message->isRedelivered()];
    foreach (NAMES as $ours => $theirs) {
        $told[$ours] = $about[$theirs] ?? null;
    }
    if (isset($about['application_headers'])) {
        $told['headers'] = $about['application_headers']->getNativeData();
    }
    return $told;
}

$actions = [
    'connect' => function (array $details) use (&$channel, &$problem) {
        $url = parse_url($details['url']);
        $connection = new AMQPStreamConnection($url['host'], $url['port'], $url['user'], $url['pass']);
        $channel = $connection->channel();
        $channel->confirm_select();
        $channel->set_nack_handler(function () use (&$problem) {
            $problem = 'nacked';
        });
        $channel->set_return_listener(function () use (&$problem) {
            $problem = 'returned';
        });
    },
    'declare' => function (array $details) use (&$channel) {
        $queue = $details['queue'];
        return $channel->queue_declare($queue, false, $queue !== '', $queue === '', false)[0];
    },
    'publish' => function (array $details) use (&$channel, &$problem) {
        $message = $details['message'];
        $about = ['delivery_mode' => AMQPMessage::DELIVERY_MODE_PERSISTENT];
        foreach (NAMES as $ours => $theirs) {
            if (isset($message[$ours])) {
                $about[$theirs] = $message[$ours];
            }
        }
        if (!empty($message['headers'])) {
            $about['application_headers'] = new AMQPTable($message['headers']);
        }
        $problem = null;
        $channel->basic_publish(new AMQPMessage(base64_decode($message['body']), $about), '', $details['queue'], true);
        $channel->wait_for_pending_acks_returns(CONFIRM_SECONDS);
        if ($problem !== null) {
            throw new RuntimeException($problem);
        }
    },
    'consume' => function (array $details) use (&$channel) {
        $acknowledge = $details['acknowledge'];
        $channel->basic_consume($details['queue'], '', false, false, false, false, function ($message) use ($acknowledge) {
            tell(['event' => 'message', 'message' => told($message)]);
            if ($acknowledge) {
                $message->ack();
            }
        });
    },
];

while (true) {
    $read = [STDIN];
    $write = $except = null;
    if (stream_select($read, $write, $except, 0, POLL_MICROSECONDS)) {
        $line = fgets(STDIN);
        if ($line === false) {
            exit(0);
        }
        $details = json_decode($line, true, 512, JSON_THROW_ON_ERROR);
        try {
            tell(['command' => $details['command'], 'value' => $actions[$details['action']]($details)]);
        } catch (Exception $error) {
            tell(['command' => $details['command'], 'error' => $error->getMessage()]);
        }
    }
    if ($channel !== null) {
        try {
            $channel->wait(null, true);
        } catch (AMQPExceptionInterface $error) {
            $channel = null;
            tell(['event' => 'lost']);
        }
    }
}
