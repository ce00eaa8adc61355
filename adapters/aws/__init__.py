"""The AWS client: credentials, endpoints, and two transports behind one port (`adapters.aws.api`)."""
