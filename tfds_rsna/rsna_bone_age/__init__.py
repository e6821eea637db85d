"""RSNA Pediatric Bone Age Challenge 2017 (Halabi et al., Radiology 2019;290(2):498-503)."""
