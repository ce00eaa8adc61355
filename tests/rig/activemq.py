"""A real ActiveMQ, Debian's package, on a port and in a folder of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.rig.processes import HOST, ServerProcess, accepts, free_port

HOME = Path("/usr/share/activemq")

USER = "guest"
PASSWORD = "guest"

_CONFIGURATION = """\
<beans xmlns="http://www.springframework.org/schema/beans"
       xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
       xsi:schemaLocation="http://www.springframework.org/schema/beans
                           http://www.springframework.org/schema/beans/spring-beans-2.0.xsd
                           http://activemq.apache.org/schema/core
                           http://activemq.apache.org/schema/core/activemq-core.xsd">
  <broker xmlns="http://activemq.apache.org/schema/core" brokerName="rig" dataDirectory="{data}"
          persistent="false" useJmx="false" schedulerSupport="true">
    <plugins>
      <simpleAuthenticationPlugin anonymousAccessAllowed="true">
        <users>
          <authenticationUser username="{user}" password="{password}" groups="users"/>
        </users>
      </simpleAuthenticationPlugin>
    </plugins>
    <transportConnectors>
      <transportConnector name="stomp" uri="stomp://{host}:{port}"/>
    </transportConnectors>
  </broker>
</beans>
"""
"""Everything in memory, the schedule included: nothing outlives a test session."""

_JVM_OPTIONS = ("-Xms64M", "-Xmx256M", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
"""It starts in about two seconds, and takes part of one core."""


def installed() -> bool:
    """Whether this machine has ActiveMQ, and a Java to run it."""
    return HOME.exists() and shutil.which("java") is not None


class ActiveMQ(ServerProcess):
    """ActiveMQ with STOMP and nothing else. A wrong login is refused; one without a name is let in."""

    def __init__(self, directory: Path) -> None:
        self.stomp_port = free_port()
        base = directory / f"activemq-{self.stomp_port}"
        base.mkdir()
        configuration = base / "activemq.xml"
        configuration.write_text(
            _CONFIGURATION.format(data=base / "data", user=USER, password=PASSWORD, host=HOST, port=self.stomp_port)
        )
        command = [
            "java",
            *_JVM_OPTIONS,
            f"-Dactivemq.home={HOME}",
            f"-Dactivemq.base={base}",
            "-classpath",
            f"{HOME}/lib/*:{HOME}/lib/optional/*",
            "org.apache.activemq.console.Main",
            "start",
            f"xbean:file:{configuration}",
        ]
        super().__init__("activemq", command, directory / f"activemq-{self.stomp_port}.log")

    def ready(self) -> bool:
        return accepts(self.stomp_port)
