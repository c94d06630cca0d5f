"""Names for containers nobody named: an adjective and a word of the harbour. Pure but for chance."""

import random

_ADJECTIVES = """able amber ample azure bold brave brisk calm clear crisp deft eager early easy fair fast fine firm fleet
 fond free fresh full gentle glad golden good grand happy hardy hearty honest jolly keen kind lively loyal lucky mellow
 merry neat noble patient placid plucky polite proud quick quiet ready sharp silver sleek smart smooth snug solid
 spry steady stout strong subtle sunny sure swift tidy tranquil trim trusty upright vivid warm wise witty""".split()
_NOUNS = """anchor ballast barge bay beacon bilge boat boom bosun bow brig buoy cabin cape capstan captain clipper coast
 cove crane crew current cutter deck delta dinghy dock dory eddy ferry fjord fleet frigate galley gangway gull gunwale
 halyard harbour haven helm hull islet jetty keel ketch lagoon lantern lighthouse longboat lugger mainsail mariner mast
 mizzen mole mooring navigator oar pier pilot pinnace port prow quay raft reef rigging rudder sail schooner sextant
 shoal shore skiff skipper sloop spar spinnaker starboard stern strait tide tiller topsail trawler tug wave wharf winch
 windlass yacht yawl""".split()


def random_name(taken: set[str]) -> str:
    """A name that is not in `taken`."""
    while True:
        name = f"{random.choice(_ADJECTIVES)}_{random.choice(_NOUNS)}"
        if name not in taken:
            return name
        name += str(random.randrange(10_000))
        if name not in taken:
            return name
