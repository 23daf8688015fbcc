package nodeapi

import (
	"context"

	"github.com/redis/go-redis/v9"
)

// SilenceRedis makes the client of Redis' protocol write nothing to standard error, in the whole program.
func SilenceRedis() { redis.SetLogger(silent{}) }

type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}
