"""A campaign of faults: what the project promises must hold in each of its cases.

``make faults`` runs many; ``test_campaign.py`` a few. docs/reliability.md has figures.
"""
