//! Message heads: the scan that finds a head's end and refuses what no head may hold, before any parser sees it.
