"""Adapters: one folder for each service that queues, topics or state live in."""
