package module

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"reflect"
	"regexp"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/internal/version"
	"github.com/async-relay/caddy-relay/module/memory"
)

// This file keeps the memory of the option remember: it reads the record of an earlier
// process when a config is provisioned, writes it while that config runs, and writes it
// for the last time at exit. memory_snapshot.go and memory_restore.go convert the state.

const (
	// recallTimeout bounds the wait for the storage before the first config starts.
	recallTimeout = 2 * time.Second

	// finishTimeout bounds the wait for the storage at exit, and when a config without
	// relays takes effect.
	finishTimeout = 2 * time.Second
)

// processStarted and processID identify this process in its memory.
var (
	processStarted = time.Now()
	processID      = rand.Text()
)

// takingOver reports whether this process is to replace another one and has not yet.
// Until then, that one writes the memory.
var takingOver atomic.Bool

// recalled is the memory of an earlier process, as a config has read it.
type recalled struct {
	record *memory.Record // nil: none
	err    error          // why there is none; nil: nothing was stored
	logged bool
}

// recall reads the memory if a.Remember is set and no config runs yet. Later configs
// use the state that the process has. It is called by Provision, because other apps may
// be started before this one and serve clients at once.
func (a *App) recall() {
	if a.Remember == 0 || leaving() {
		return
	}
	a.memoryKey = memoryKey(a.ctx, a.Instance)
	turn.mu.Lock()
	running := turn.current != nil
	turn.mu.Unlock()
	if running {
		return
	}
	ctx, cancel := context.WithTimeout(a.ctx, recallTimeout)
	defer cancel()
	a.recalled.record, a.recalled.err = memory.Load(ctx, a.ctx.Storage(), a.memoryKey, time.Duration(a.Remember))
}

// logRecall logs once what recall has found, when the config takes effect.
func (a *App) logRecall() {
	r := &a.recalled
	if r.logged {
		return
	}
	r.logged = true
	var tooOld *memory.TooOldError
	switch {
	case r.record != nil:
		a.log().Info("memory restored", zap.String("key", a.memoryKey), zap.Duration("age", r.record.Age(time.Now())),
			zap.Int("services", len(r.record.Services)), zap.Bool("counters", r.record.Counts != nil))
	case errors.As(r.err, &tooOld):
		a.log().Info("memory too old, starting without it", zap.String("key", a.memoryKey), zap.Duration("age", tooOld.Age))
	case r.err != nil:
		a.log().Warn("memory unusable, starting without it", zap.String("key", a.memoryKey), zap.Error(r.err))
	}
}

// startMemory begins to write the memory of this config, which takes effect. before is
// the keeper of the config before it, or nil.
func (a *App) startMemory(before *memory.Keeper) {
	if a.Remember == 0 || replaced.Load() {
		return
	}
	host, _ := os.Hostname()
	log := a.log()
	a.keeper = memory.Keep(memory.Config{
		Store: a.ctx.Storage(), Key: a.memoryKey, Age: time.Duration(a.Remember), Before: before,
		Writer:   memory.Writer{ID: processID, Host: host, PID: os.Getpid(), Started: processStarted, Relay: version.Get().Relay},
		Snapshot: func() memory.Record { return snapshot(runningServices()) },
		Accepted: a.runs,
		Failed: func(err error) {
			log.Warn("memory not written", zap.String("key", a.memoryKey), zap.Error(err))
		},
		Recovered: func() { log.Info("memory written again", zap.String("key", a.memoryKey)) },
	})
}

// runs reports whether Caddy has accepted the config of this app, and no other process
// has the memory.
func (a *App) runs() bool {
	if takingOver.Load() {
		return false
	}
	if caddy.Exiting() { // Caddy has no active config any more, and a rejected one is not loaded now
		return true
	}
	active := caddy.ActiveContext()
	if active.Context == nil {
		return false
	}
	app, err := active.AppIfConfigured("relay")
	return err == nil && app == caddy.App(a)
}

// pauseMemory pauses or resumes the writing of the memory.
func pauseMemory(pause bool) {
	turn.mu.Lock()
	defer turn.mu.Unlock()
	switch {
	case turn.current == nil || turn.current.keeper == nil:
	case pause:
		turn.current.keeper.Pause()
	default:
		turn.current.keeper.Resume()
	}
}

// endMemory ends the writing of the memory of this config. next is the config that
// takes effect now, or nil.
func (a *App) endMemory(next *App) {
	switch {
	case a.keeper == nil:
	case replaced.Load(): // the new process has the memory
		a.keeper.Stop()
	case next == nil && caddy.Exiting(): // with a next one, a reload ends, and that is stopped then
		rememberAtExit(a.keeper)
	case next == nil: // no config has a relay any more; the next one that has reads what is written now
		a.keeper.Finish(snapshot(runningServices()), finishTimeout)
	case next.memoryKey != a.memoryKey: // turned off, or another name
		a.keeper.Forget()
	default:
		a.keeper.Stop()
	}
}

// exitMemory is the memory that is written when the last relay has ended.
type exitMemory struct {
	keeper   *memory.Keeper
	record   memory.Record
	services []*service // their counters may still rise
}

// rememberAtExit takes the last snapshot. With relays that are still active, the
// counters are added when these have ended, by writeExitMemory. Without, all is written
// at once, because Caddy closes some storages before it calls shutDown.
func rememberAtExit(keeper *memory.Keeper) {
	m := exitMemory{keeper: keeper, services: runningServices()}
	m.record = snapshot(m.services)
	if hasRelays() {
		keeper.Freeze(m.record)
		turn.exit = &m
		return
	}
	m.write()
}

// writeExitMemory writes the memory with the final counters, if rememberAtExit has left
// that.
func writeExitMemory() {
	turn.mu.Lock()
	defer turn.mu.Unlock()
	if turn.exit != nil {
		turn.exit.write()
		turn.exit = nil
	}
}

func (m *exitMemory) write() {
	m.record.Counts = countsOf(m.services)
	m.keeper.Finish(m.record, finishTimeout)
}

// memoryKey returns the key of the memory of an instance in the storage. By default, an
// instance is a host and an admin endpoint: two processes of a machine cannot have the
// same one, and a restart or another version does not change it.
func memoryKey(ctx caddy.Context, instance string) string {
	if instance == "" {
		host, err := os.Hostname()
		if err != nil {
			host = "unknown"
		}
		instance = host + "-" + adminAddress(ctx)
	}
	return "relay/memory/" + notInKeys.ReplaceAllString(instance, "_") + ".json"
}

var notInKeys = regexp.MustCompile(`[^A-Za-z0-9._-]`)

// adminAddress returns the address of the admin endpoint of a config, or "off". Caddy
// does not export the config of a context, so it is read by reflection. If a later
// version has another structure, the default address is returned.
func adminAddress(ctx caddy.Context) string {
	field := func(v reflect.Value, name string) reflect.Value {
		if v.Kind() == reflect.Pointer {
			v = v.Elem()
		}
		if v.Kind() != reflect.Struct {
			return reflect.Value{}
		}
		return v.FieldByName(name)
	}
	admin := field(field(reflect.ValueOf(ctx), "cfg"), "Admin")
	if off := field(admin, "Disabled"); off.Kind() == reflect.Bool && off.Bool() {
		return "off"
	}
	if listen := field(admin, "Listen"); listen.Kind() == reflect.String && listen.String() != "" {
		return caddy.NewReplacer().ReplaceAll(listen.String(), "")
	}
	return caddy.DefaultAdminListen
}
