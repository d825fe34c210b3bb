"""Exit 0 when the application on this machine answers GET /health with 200, else 1.

Standard library only, because the container engine starts it again and again.
"""

import http.client
import os
import sys


def check(port: int, timeout: float = 5.0) -> str | None:
    """Why the application is not healthy; None when it is. `timeout` in seconds."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET", "/health")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
    finally:
        connection.close()
    return None if status == http.client.OK else f"GET /health answered {status}"


if __name__ == "__main__":
    fault = check(int(os.environ.get("PORT") or 8000))
    if fault:
        sys.exit(f"unhealthy: {fault}")
