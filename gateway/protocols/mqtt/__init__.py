"""MQTT 3.1, 3.1.1 and 5.0: the codec of all three, and the session that serves 3.1.1."""
