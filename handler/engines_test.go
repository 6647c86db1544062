package handler

import "testing"

// overEngines runs a test over each of the built-in engines.
func overEngines(t *testing.T, test func(*testing.T, Engine)) {
	t.Run("goroutines", func(t *testing.T) { test(t, goroutines{}) })
	t.Run("loops", func(t *testing.T) { // the same once more on systems without them
		test(t, NewEngine())
	})
}

// with is the option that has a rig use an engine.
func with(e Engine) func(*Options) { return func(o *Options) { o.Engine = e } }
