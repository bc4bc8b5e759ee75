"""Generated parts with known defects: riblet foil and steel plate as maps, chess and noise as images."""
