"""The container's health check: exit code 0 while the gateway answers `/healthz`, or the path given as argument."""

import http.client
import os
import sys

PORT = int(os.environ.get("MQLIFT_ADMIN__PORT", "9090"))
TIMEOUT = 2.0


def main() -> int:
    path = sys.argv[1] if len(sys.argv) > 1 else "/healthz"
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=TIMEOUT)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        sys.stdout.write(answer.read(4096).decode(errors="replace"))
    except (OSError, http.client.HTTPException) as error:
        sys.stdout.write(f"no answer on port {PORT}: {error}")
        return 1
    finally:
        connection.close()
    return 0 if answer.status == http.client.OK else 1


if __name__ == "__main__":
    sys.exit(main())
