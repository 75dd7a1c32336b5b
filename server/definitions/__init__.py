"""What operators declare: `ratchet.yaml` read with the place of every error, compared with what is in force, applied.

Law of this package: a file is right as a whole or wrong as a whole. One with an error changes nothing, and the last
good one stays in force.
"""
