package logqueue

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// pipe is a writer of a log that a test can stop reading.
type pipe struct {
	mu    sync.Mutex // held while the log is not read, and during a write
	lines []string
}

func (p *pipe) Write(text []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lines = append(p.lines, string(text))
	return len(text), nil
}

func (p *pipe) Sync() error { return nil }

// got returns the lines that were read.
func (p *pipe) got() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.lines)
}

// numbers returns the field n of all lines of a level.
func (p *pipe) numbers(t *testing.T, level string) (list []int) {
	t.Helper()
	for _, text := range p.got() {
		var line struct {
			Level string
			N     *int
		}
		relaytest.Check(t, json.Unmarshal([]byte(text), &line))
		if line.Level == level && line.N != nil {
			list = append(list, *line.N)
		}
	}
	return list
}

func (p *pipe) core(level zapcore.Level) zapcore.Core {
	return zapcore.NewCore(zapcore.NewJSONEncoder(zapcore.EncoderConfig{LevelKey: "level", MessageKey: "msg", EncodeLevel: zapcore.LowercaseLevelEncoder}), p, level)
}

// sequence returns first, first+1, ... , last.
func sequence(first, last int) (list []int) {
	for i := first; i <= last; i++ {
		list = append(list, i)
	}
	return list
}

func flushed(t *testing.T, q *Queues) {
	t.Helper()
	if !q.Flush(relaytest.Limit) {
		t.Fatal("not flushed")
	}
}

// A line keeps its level, name, time, caller and fields, and lines keep their
// order. Levels and sampling apply.
func TestLinesAreWrittenAsLogged(t *testing.T) {
	relaytest.NoLeaks(t)
	core, direct := observer.New(zap.InfoLevel)
	other, queued := observer.New(zap.InfoLevel)
	options := []zap.Option{zap.AddCaller(), zap.AddStacktrace(zap.ErrorLevel)}
	var q Queues
	logs := []*zap.Logger{
		zap.New(zapcore.NewSamplerWithOptions(core, time.Hour, 3, 5), options...).Named("relay"),
		q.New(zap.New(zapcore.NewSamplerWithOptions(other, time.Hour, 3, 5), options...).Named("relay")).Logger(),
	}
	levels := []zapcore.Level{zap.DebugLevel, zap.InfoLevel, zap.WarnLevel, zap.ErrorLevel}
	for i := range 100 {
		for _, log := range logs {
			log = log.Named("access").With(zap.String("service", "a"))
			log.Log(levels[i%len(levels)], fmt.Sprint("message ", i/20), zap.Int("n", i))
		}
	}
	flushed(t, &q)
	if direct.Len() != queued.Len() || direct.Len() == 0 || direct.Len() == 100 {
		t.Fatalf("%d lines, want %d", queued.Len(), direct.Len())
	}
	for i, want := range direct.All() {
		got := queued.All()[i]
		if got.Message != want.Message || got.Level != want.Level || got.LoggerName != want.LoggerName ||
			fmt.Sprint(got.ContextMap()) != fmt.Sprint(want.ContextMap()) || got.Caller.String() != want.Caller.String() || (got.Stack == "") != (want.Stack == "") {
			t.Errorf("line %d: %+v, want %+v", i, got, want)
		}
	}
	if q.Dropped() != 0 {
		t.Errorf("%d lines dropped", q.Dropped())
	}
}

// A log that is not read delays no caller. It keeps the lines of the highest
// levels, and gets the number of dropped lines when it is read again.
func TestLogThatIsNotRead(t *testing.T) {
	relaytest.NoLeaks(t)
	var stopped, read pipe
	var q Queues
	log := q.New(zap.New(zapcore.NewTee(stopped.core(zap.DebugLevel), read.core(zap.DebugLevel)))).Logger()
	stopped.mu.Lock()
	// The first line may be in the blocked write already, or wait.
	log.Debug("line", zap.Int("n", 0))
	for i := range Limit {
		log.Debug("line", zap.Int("n", i+1))
	}
	relaytest.Eventually(t, "the other log to be read", func() bool { return len(read.got()) == Limit+1 })
	const more = 100
	for i := range more {
		log.Error("line", zap.Int("n", i))
		log.Info("line", zap.Int("n", i))
	}
	relaytest.Eventually(t, "the other log to be read", func() bool { return len(read.got()) == Limit+1+2*more })
	dropped := int(q.Dropped())
	if dropped != 2*more && dropped != 2*more+1 {
		t.Errorf("%d lines dropped, want %d or one more", dropped, 2*more)
	}
	stopped.mu.Unlock()
	flushed(t, &q)
	for _, level := range []string{"error", "info"} {
		if got := stopped.numbers(t, level); !slices.Equal(got, sequence(0, more-1)) {
			t.Errorf("level %s: got %v", level, got)
		}
	}
	debug := stopped.numbers(t, "debug")
	if want := sequence(Limit-len(debug)+1, Limit); len(debug) != Limit+1-dropped || !slices.Equal(debug[1:], want[1:]) {
		t.Errorf("%d debug lines, want %d in order", len(debug), Limit+1-dropped)
	}
	var notices []string
	for _, text := range stopped.got() {
		if strings.Contains(text, "dropped") {
			notices = append(notices, text)
		}
	}
	if want := fmt.Sprintf(`{"level":"warn","msg":"log lines dropped","count":%d}`+"\n", dropped); len(notices) != 1 || notices[0] != want {
		t.Errorf("got %q, want %q", notices, want)
	}
	log.Info("again", zap.Int("n", more))
	flushed(t, &q)
	if got := stopped.numbers(t, "info"); got[len(got)-1] != more {
		t.Error("the log does not continue")
	}
}

// A full queue drops a new line if only lines of its level or higher ones wait.
func TestFullQueueOfErrors(t *testing.T) {
	var p pipe
	var q Queues
	log := q.New(zap.New(p.core(zap.DebugLevel))).Logger()
	p.mu.Lock()
	log.Error("line", zap.Int("n", -1))
	relaytest.Eventually(t, "the blocked write", func() bool { return log.Core().(*core).out.waitingNow() == 0 })
	for i := range 2 * Limit {
		log.Error("line", zap.Int("n", i))
		log.Warn("line", zap.Int("n", i))
	}
	p.mu.Unlock()
	flushed(t, &q)
	if got := p.numbers(t, "error"); !slices.Equal(got, sequence(-1, Limit-1)) {
		t.Errorf("%d lines", len(got))
	}
	if q.Dropped() != 3*Limit {
		t.Errorf("%d dropped, want %d", q.Dropped(), 3*Limit)
	}
}

func (o *output) waitingNow() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.count
}

// Flush returns false at its timeout. Release drops the lines of a log that is not
// read, and new ones until it continues.
func TestRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		core, logs := observer.New(zap.InfoLevel)
		var q Queues
		queue := q.New(zap.New(zapcore.RegisterHooks(core, func(zapcore.Entry) error { <-gate; return nil })))
		log := queue.Logger()
		queue.Release(time.Second) // nothing waits
		for range 10 {
			log.Info("line")
		}
		synctest.Wait()
		began := time.Now()
		if q.Flush(time.Second) || time.Since(began) != time.Second {
			t.Errorf("flushed after %v", time.Since(began))
		}
		queue.Release(time.Second)
		if time.Since(began) != 2*time.Second || q.Dropped() != 9 {
			t.Errorf("released after %v, %d dropped", time.Since(began), q.Dropped())
		}
		log.Info("line")
		if q.Dropped() != 10 {
			t.Errorf("%d dropped, want 10", q.Dropped())
		}
		close(gate)
		if !q.Flush(time.Second) {
			t.Error("not flushed")
		}
		log.Info("line")
		synctest.Wait()
		var got []string
		for _, line := range logs.All() {
			got = append(got, fmt.Sprint(line.Message, line.ContextMap()))
		}
		if want := []string{"linemap[]", "log lines droppedmap[count:10]", "linemap[]"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// Release does not drop the lines of a log that is read slowly.
func TestReleaseOfASlowLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.InfoLevel)
		var q Queues
		queue := q.New(zap.New(zapcore.RegisterHooks(core, func(zapcore.Entry) error { time.Sleep(300 * time.Millisecond); return nil })))
		for range 10 {
			queue.Logger().Info("line")
		}
		queue.Release(time.Second)
		if !q.Flush(time.Minute) || logs.Len() != 10 || q.Dropped() != 0 {
			t.Errorf("%d lines, %d dropped", logs.Len(), q.Dropped())
		}
	})
}

// A line whose encoding panics is dropped and counted.
func TestPanicInALine(t *testing.T) {
	var p pipe
	var q Queues
	log := q.New(zap.New(p.core(zap.InfoLevel))).Logger()
	log.Info("bad", zap.Object("o", zapcore.ObjectMarshalerFunc(func(zapcore.ObjectEncoder) error { panic("test") })))
	log.Info("good")
	flushed(t, &q)
	if got := p.got(); len(got) != 2 || !strings.Contains(strings.Join(got, ""), "good") || q.Dropped() != 1 {
		t.Errorf("got %q, %d dropped", got, q.Dropped())
	}
}

// Each line is written or counted as dropped, in the order of its goroutine.
func TestManyCallers(t *testing.T) {
	relaytest.NoLeaks(t)
	const callers, lines = 8, 20_000
	var p pipe
	var q Queues
	log := q.New(zap.New(p.core(zap.DebugLevel))).Logger()
	var all sync.WaitGroup
	for caller := range callers {
		all.Go(func() {
			for i := range lines {
				log.Info("line", zap.Int("n", caller*lines+i))
				if i%5000 == 0 {
					q.Flush(time.Millisecond)
				}
			}
		})
	}
	all.Wait()
	flushed(t, &q)
	latest := make(map[int]int)
	got := p.numbers(t, "info")
	for _, n := range got {
		if before, ok := latest[n/lines]; ok && n <= before {
			t.Fatalf("line %d after line %d", n, before)
		}
		latest[n/lines] = n
	}
	if len(got)+int(q.Dropped()) != callers*lines {
		t.Errorf("%d lines written and %d dropped, want %d in all", len(got), q.Dropped(), callers*lines)
	}
}

func BenchmarkLine(b *testing.B) {
	encoder := zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig())
	direct := zap.New(zapcore.NewCore(encoder, zapcore.AddSync(io.Discard), zap.InfoLevel))
	var q Queues
	for name, log := range map[string]*zap.Logger{"direct": direct, "queued": q.New(direct).Logger()} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for i := range b.N {
				log.Info("relayed", zap.String("service", "orders"), zap.Int("n", i), zap.String("client", "192.0.2.1:50000"), zap.Duration("duration", time.Second))
				if i%1000 == 0 {
					q.Flush(time.Minute)
				}
			}
			q.Flush(time.Minute)
		})
	}
}
