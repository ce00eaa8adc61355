"""STOMP: versions 1.0, 1.1 and 1.2, in the dialects of RabbitMQ and ActiveMQ."""
