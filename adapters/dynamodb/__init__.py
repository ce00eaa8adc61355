"""A state store in one DynamoDB table, for gateways that share it."""
