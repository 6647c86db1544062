package upstream_test

import (
	"errors"
	"fmt"
	"time"

	"github.com/async-relay/caddy-relay/upstream"
)

// The first backend is dead. The client tries it twice, and is then served by the
// second backend. The dead one moves to the end of the queue.
func Example() {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	pool := upstream.NewPool([]upstream.Address{
		{Text: "one.example:80", Host: "one.example", Port: 80},
		{Text: "two.example:80", Host: "two.example", Port: 80},
	}, 0, now)

	dial := func(b *upstream.Backend) error {
		if b.Host == "one.example" {
			return errors.New("connection refused")
		}
		return nil
	}

	walk := pool.Walk(upstream.TCP)
	attempt, ok := walk.Next(now)
	for ok {
		err := dial(attempt.Backend)
		if err == nil {
			walk.Succeeded(attempt, now)
			fmt.Println("served by", attempt.Backend.Text)
			break
		}
		verdict, change := walk.Failed(attempt, now, err)
		fmt.Printf("%s: %v, strike %d\n", attempt.Backend.Text, err, change.Strike)
		if change.Order != nil {
			fmt.Println("new order:", change.Order)
		}
		switch verdict {
		case upstream.Retry:
			attempt, ok = walk.Again(attempt, now)
		default:
			walk.Exhaust(attempt.Backend)
			attempt, ok = walk.Next(now)
		}
	}
	// Output:
	// one.example:80: connection refused, strike 1
	// one.example:80: connection refused, strike 2
	// new order: [two.example:80 one.example:80]
	// served by two.example:80
}
