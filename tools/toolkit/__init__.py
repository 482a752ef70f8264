"""What the scripts beside this folder share; no user of the package imports it.

A script finds it because Python looks first in the folder of the script that runs. It
may import ``setformer_mm``, which never imports it.
"""
