//! Who is alive: SWIM membership over foca, without I/O.
