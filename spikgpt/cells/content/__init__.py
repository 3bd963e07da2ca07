"""Values and features of an expression matrix: which are RNA, and in what unit."""
