package redis

import (
	"context"
	"fmt"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/certmagic"
	storageredis "github.com/pberkel/caddy-storage-redis"
)

// BenchmarkStorage measures the operations of a fleet of 50 nodes: docs/fleet.md has
// the figures.
func BenchmarkStorage(b *testing.B) {
	b.Run("file system", func(b *testing.B) { benchmark(b, &certmagic.FileStorage{Path: b.TempDir()}) })
	b.Run("redis", func(b *testing.B) {
		port, _ := startRedis(b)
		s := storageredis.New()
		s.Host, s.Port = []string{"127.0.0.1"}, []string{port}
		ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
		defer cancel()
		if err := s.Provision(ctx); err != nil {
			b.Fatal(err)
		}
		benchmark(b, s)
	})
}

func benchmark(b *testing.B, s certmagic.Storage) {
	ctx := context.Background()
	record := make([]byte, 400)
	key := func(i int) string { return fmt.Sprintf("relay/fleet/test/nodes/node%02d-abcdefgh.json", i) }
	store := func(key string, value []byte) {
		if err := s.Store(ctx, key, value); err != nil {
			b.Fatal(err)
		}
	}
	for i := range 50 {
		store(key(i), record)
	}
	store("relay/fleet/test/changed", []byte("node01-abcdefgh 17"))
	b.Run("load the mark", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.Load(ctx, "relay/fleet/test/changed"); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("load a record", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.Load(ctx, key(7)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("store a record", func(b *testing.B) {
		for b.Loop() {
			store(key(7), record)
		}
	})
	b.Run("list 50 records", func(b *testing.B) {
		for b.Loop() {
			if keys, err := s.List(ctx, "relay/fleet/test/nodes", false); err != nil || len(keys) != 50 {
				b.Fatal(keys, err)
			}
		}
	})
}
