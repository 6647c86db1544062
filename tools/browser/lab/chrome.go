package lab

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// ErrNoChromium is the error where there is no chromium.
var ErrNoChromium = errors.New("no chromium: install Debian's package chromium")

// FindChromium returns the path of chromium.
func FindChromium() (string, error) {
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", ErrNoChromium
}

// Chrome starts a chromium without a window. cancel ends it.
func Chrome(ctx context.Context) (browser context.Context, cancel context.CancelFunc, err error) {
	path, err := FindChromium()
	if err != nil {
		return nil, nil, err
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.Flag("hide-scrollbars", true), chromedp.Flag("disable-dev-shm-usage", true))
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox) // root has no sandbox
	}
	allocator, cancelAllocator := chromedp.NewExecAllocator(ctx, options...)
	browser, cancelBrowser := chromedp.NewContext(allocator)
	cancel = func() { cancelBrowser(); cancelAllocator() }
	if err := chromedp.Do(browser); err != nil {
		cancel()
		return nil, nil, fmt.Errorf("start %s: %w", path, err)
	}
	return browser, cancel, nil
}

// View is how a tab looks at the page.
type View struct {
	Width, Height int64
	Dark          bool
	Mobile        bool
	NoScript      bool

	User, Password string // of basic_auth; no user: none
}

// headers returns the headers that the browser adds to its requests.
func (v View) headers() network.Headers {
	if v.User == "" {
		return network.Headers{}
	}
	return network.Headers{"Authorization": "Basic " + base64.StdEncoding.EncodeToString([]byte(v.User+":"+v.Password))}
}

// Tab is a tab of chromium.
type Tab struct {
	context.Context
	close context.CancelFunc

	mu       sync.Mutex // guards problems
	problems []string
}

// Open opens a page in a new tab of the browser.
func Open(browser context.Context, url string, view View) (*Tab, error) {
	tab := &Tab{}
	tab.Context, tab.close = chromedp.NewContext(browser)
	scheme := "light"
	if view.Dark {
		scheme = "dark"
	}
	err := tab.Do(
		chromedp.Func(func(ctx context.Context, _ *chromedp.Target) error { return chromedp.Listen(ctx, tab.listen) }),
		command(log.Enable, cdp.Empty{}),
		command(network.SetExtraHTTPHeaders, network.SetExtraHTTPHeadersParams{Headers: view.headers()}),
		command(emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: view.Width, Height: view.Height, DeviceScaleFactor: 1, Mobile: view.Mobile}),
		command(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}}),
		command(emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: view.NoScript}),
		chromedp.Navigate(url),
	)
	if err != nil {
		tab.close()
		return nil, fmt.Errorf("open %s: %w", url, err)
	}
	return tab, nil
}

// Close closes the tab.
func (t *Tab) Close() { t.close() }

// listen records errors of scripts, and what the browser complains about, such as
// violations of the content security policy.
func (t *Tab) listen(event any) {
	var problem string
	switch event := event.(type) {
	case *runtime.EventExceptionThrown:
		problem = fmt.Sprint(event.ExceptionDetails.Text, " ", event.ExceptionDetails.Exception.Description)
	case *log.EventEntryAdded:
		if event.Entry.Level == log.EntryLevelError || event.Entry.Source == log.EntrySourceSecurity || event.Entry.Source == log.EntrySourceViolation {
			problem = fmt.Sprintf("%s: %s %s", event.Entry.Source, event.Entry.Text, event.Entry.URL)
		}
	}
	if problem != "" {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.problems = append(t.problems, problem)
	}
}

// Problems returns the errors so far.
func (t *Tab) Problems() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]string(nil), t.problems...)
}

// command returns an action that sends a command of the protocol.
func command[P any](c cdp.Command[P, cdp.Empty], params P) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, c, params)
		return err
	})
}

// limit bounds the actions of one call.
const limit = 20 * time.Second

// Do runs actions.
func (t *Tab) Do(actions ...chromedp.Action[chromedp.Void]) error {
	_, err := do(t, chromedp.Steps(actions...))
	return err
}

// do runs an action. The first one of a tab must not have a deadline, so the limit
// is not in the context.
func do[T any](t *Tab, action chromedp.Action[T]) (T, error) {
	type outcome struct {
		value T
		err   error
	}
	done := make(chan outcome, 1)
	go func() { // ends with the tab at the latest
		value, err := chromedp.Run(t.Context, action)
		done <- outcome{value, err}
	}()
	select {
	case o := <-done:
		return o.value, o.err
	case <-time.After(limit):
		var zero T
		return zero, fmt.Errorf("the browser did not finish in %s", limit)
	}
}

// Eval evaluates an expression, and waits for it if it is a promise.
func Eval[T any](t *Tab, expression string) (T, error) {
	return do(t, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
}

// Wait waits until an expression is true, and returns how long that took.
func (t *Tab) Wait(expression string, limit time.Duration) (time.Duration, error) {
	began := time.Now()
	var last error // for example while the page is loaded again
	for time.Since(began) < limit {
		ok, err := Eval[bool](t, "Boolean("+expression+")")
		if ok {
			return time.Since(began), nil
		}
		last = err
		time.Sleep(10 * time.Millisecond) // between questions
	}
	if last != nil {
		return 0, fmt.Errorf("not true within %s: %s: %w", limit, expression, last)
	}
	return 0, fmt.Errorf("not true within %s: %s", limit, expression)
}

// Shot writes a screenshot of the window, or of the whole page.
func (t *Tab) Shot(path string, whole bool) error {
	action := chromedp.CaptureScreenshot()
	if whole {
		action = chromedp.FullScreenshot(100)
	}
	png, err := do(t, action)
	if err != nil {
		return err
	}
	return os.WriteFile(path, png, 0o644)
}
