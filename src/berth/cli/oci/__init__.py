"""`berth oci`: berth's runtime under the command line that runc has, and what crun adds to it."""
