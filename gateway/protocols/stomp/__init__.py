"""STOMP: version 1.2 in RabbitMQ's dialect of destinations and headers."""
