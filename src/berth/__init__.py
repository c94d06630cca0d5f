"""berth builds, ships and runs programs in Linux containers, and speaks Docker's own interfaces."""

VERSION = "0.1.0"
API_VERSION = "1.51"
MIN_API_VERSION = "1.22"
