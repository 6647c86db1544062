package hook

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os/exec"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
)

// outputCap is how much of each output is kept. The rest is read and thrown
// away: a command that nobody reads would hang.
const outputCap = 4 << 10

// killAfter is how long a group that was asked to end may take to do so, and
// how long its output may then stay open before it is closed from this side.
const killAfter = time.Second

var errTimeout = errors.New("not over within its timeout")

// command is one that was started.
type command struct {
	cmd            *exec.Cmd
	stdout, stderr io.ReadCloser
	done           chan struct{} // closed when it is over, which settles what follows
	out, errOut    string        // what it wrote, as far as it is kept
	err            error
}

// execute runs a command to its end, which comes with its timeout or that of
// life if not before, and logs what became of it.
func execute(life context.Context, j job) {
	ctx, cancel := context.WithTimeoutCause(life, j.timeout(), errTimeout)
	defer cancel()
	run(ctx, j)
}

func run(ctx context.Context, j job) {
	began := time.Now()
	c, err := start(j)
	if err != nil {
		j.Log.Error(notStarted(err), append(j.fields(), zap.Error(err))...)
		return
	}
	var cut error
	select {
	case <-c.done:
	case <-ctx.Done():
		cut = c.end(context.Cause(ctx))
	}
	c.tell(j, time.Since(began), cut)
}

func start(j job) (*command, error) {
	cmd := exec.Command(j.Command, j.Args...)
	cmd.Env = j.event.environ()
	setGroup(cmd)
	stdout, outErr := cmd.StdoutPipe()
	stderr, errErr := cmd.StderrPipe()
	if err := errors.Join(outErr, errErr); err != nil {
		cmd.Err = err // Start gives it back, and closes the pipe that there is
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c := &command{cmd: cmd, stdout: stdout, stderr: stderr, done: make(chan struct{})}
	go c.wait() // ends when the command is over, to which run sees
	return c, nil
}

// wait reads all output before it reaps the process: until then no other can
// get its id, which is the name of its group.
func (c *command) wait() {
	defer close(c.done)
	var outputs sync.WaitGroup
	outputs.Go(func() { c.out = head(c.stdout) })
	outputs.Go(func() { c.errOut = head(c.stderr) })
	outputs.Wait()
	c.err = c.cmd.Wait()
}

// head reads all and keeps the beginning. Errors are an end like any other: the
// pipe was closed.
func head(r io.Reader) string {
	kept, _ := io.ReadAll(io.LimitReader(r, outputCap))
	_, _ = io.Copy(io.Discard, r)
	return strings.TrimSpace(string(kept))
}

// end ends the whole group: it is asked to, and killed if that does not help.
// It returns when the command is over, and why, or nil if it was already.
func (c *command) end(why error) error {
	select {
	case <-c.done:
		return nil
	default:
	}
	terminate(c.cmd.Process)
	if c.goneWithin(killAfter) {
		return why
	}
	kill(c.cmd.Process)
	select {
	case <-c.done:
		return why
	case <-time.After(killAfter):
	}
	// Somebody who left the group holds the output. If not, the system holds the
	// process, and there is nothing left to do but wait.
	_ = c.stdout.Close()
	_ = c.stderr.Close()
	<-c.done
	return why
}

// goneWithin waits for the end of the command and of all its group.
func (c *command) goneWithin(limit time.Duration) bool {
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	select {
	case <-c.done:
	case <-timeout.C:
		return false
	}
	for groupAlive(c.cmd.Process) { // nobody tells of the end of those left
		select {
		case <-time.After(10 * time.Millisecond):
		case <-timeout.C:
			return false
		}
	}
	return true
}

// fields are in all lines about a command.
func (j *job) fields() []zap.Field {
	return append(make([]zap.Field, 0, 8),
		zap.String("service", j.event.Service),
		zap.String("event", j.event.Type),
		zap.String("command", j.Command))
}

// tell logs the end of a command; cut is why it did not come by itself.
func (c *command) tell(j job, took time.Duration, cut error) {
	fields := append(j.fields(), zap.Duration("duration", took), zap.Int("exit_status", c.cmd.ProcessState.ExitCode()))
	output := []zap.Field{zap.String("stdout", c.out), zap.String("stderr", c.errOut)}
	switch {
	case errors.Is(cut, errTimeout):
		j.Log.Error("event command timed out", append(append(fields, output...), zap.Error(cut))...)
	case cut != nil:
		j.Log.Warn("event command ended early", append(append(fields, output...), zap.Error(cut))...)
	case c.err != nil:
		j.Log.Warn("event command failed", append(fields, zap.String("stderr", c.errOut), zap.Error(c.err))...)
	default:
		j.Log.Info("event command succeeded", fields...)
		if c.out != "" || c.errOut != "" {
			j.Log.Debug("event command wrote", append(j.fields(), output...)...)
		}
	}
}

// notStarted is the message for a command that did not start.
func notStarted(err error) string {
	switch {
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return "event command not found"
	case errors.Is(err, fs.ErrPermission):
		return "event command not executable"
	default:
		return "event command not started"
	}
}
