package warmtierhttp

import (
	_ "github.com/chromedp/cdproto/runtime"
	_ "github.com/chromedp/chromedp"
	_ "github.com/stretchr/testify/require"
)
