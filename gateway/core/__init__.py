"""The hub: the message model, the ports, routing, batching and the broker. Imports nothing else of mqlift."""
