"""The page on which radiologists rate generated reports, systems blinded, and what their ratings say."""
