"""The default AppArmor profile, and loading it with the host's own parser.

No weaker than Docker's: no writes to what is kernel state under /proc and /sys, no mount, no ptrace
from outside of the profile.
"""

import shutil
import subprocess

from berth.errors import SystemFailure

_PROFILE = """
#include <tunables/global>

profile {name} flags=(attach_disconnected,mediate_deleted) {{
  #include <abstractions/base>

  network,
  capability,
  file,
  umount,
  # Signals from the engine, from the host's administrator and among the container's own processes.
  signal (receive) peer=unconfined,
  signal (receive) peer={{/usr/bin/,/usr/sbin/,}}runc,
  signal (send,receive) peer={name},

  deny @{{PROC}}/* w,   # files directly below /proc; directories are ruled on below
  deny @{{PROC}}/{{[^1-9],[^1-9][^0-9],[^1-9s][^0-9y][^0-9s],[^1-9][^0-9][^0-9][^0-9/]*}}/** w,
  deny @{{PROC}}/sys/[^k]** w,
  deny @{{PROC}}/sys/kernel/{{?,??,[^s][^h][^m]**}} w,
  deny @{{PROC}}/sysrq-trigger rwklx,
  deny @{{PROC}}/kcore rwklx,

  deny mount,

  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,

  ptrace (trace,read,tracedby,readby) peer={name},
}}
"""


def load_profile(name: str) -> None:
    """Loads the profile into the kernel; SystemFailure if the parser is missing or refuses."""
    parser = shutil.which("apparmor_parser", path="/sbin:/usr/sbin:/bin:/usr/bin")
    if parser is None:
        raise SystemFailure("AppArmor is on but apparmor_parser is not installed; install Debian's package apparmor")
    text = _PROFILE.format(name=name)
    done = subprocess.run([parser, "-Kr"], input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemFailure(f"AppArmor profile {name} cannot be loaded: {done.stderr.strip()}")
