// Command perf measures Go's sync beside ours, for `./dev bench --go`.
//
// It reads a plan, a file of JSON: which operations, at which numbers of threads, for how long.
// It writes the results as JSON into another file, and prints a line that begins with '@' for each
// measured cell. A value is seconds per loop, as in harness.py: one loop is one operation in
// each of the threads, side by side. As with `go test -cpu N`, N threads are N goroutines on N
// processors.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"sort"
	"sync"
	"sync/atomic"
	"time"
)

// The plan: the operations of bench_*.py, each with the numbers of threads.
type plan struct {
	MinTime    float64          `json:"min_time"`
	Values     int              `json:"values"`
	Operations map[string][]int `json:"operations"`
}

type cell struct {
	Operation string    `json:"operation"`
	Row       string    `json:"row"`
	Threads   int       `json:"threads"`
	Loops     int       `json:"loops"`
	Values    []float64 `json:"values"`
}

type report struct {
	Version string `json:"version"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
	Cores   int    `json:"usable_cores"`
	Cells   []cell `json:"cells"`
}

// A row makes its shared objects for a number of threads, and returns the loop of each thread.
type row struct {
	operation string
	name      string
	start     func(threads int) func(id, loops int)
}

// elapsed runs the row in so many goroutines that start together, and returns the seconds between
// the first start and the last finish.
func elapsed(r row, threads, loops int) float64 {
	loop := r.start(threads)
	begin := make(chan struct{})
	var ready, done sync.WaitGroup
	began := make([]time.Time, threads)
	ended := make([]time.Time, threads)
	for id := 0; id < threads; id++ {
		ready.Add(1)
		done.Add(1)
		go func(id int) {
			defer done.Done()
			ready.Done()
			<-begin
			first := time.Now()
			loop(id, loops)
			began[id], ended[id] = first, time.Now()
		}(id)
	}
	ready.Wait()
	close(begin)
	done.Wait()
	first, last := began[0], ended[0]
	for id := range began {
		if began[id].Before(first) {
			first = began[id]
		}
		if ended[id].After(last) {
			last = ended[id]
		}
	}
	return last.Sub(first).Seconds()
}

const maxLoops = 1 << 30

// calibrate returns how many loops take about so many seconds.
func calibrate(r row, threads int, minTime float64) int {
	loops := 16
	for {
		took := elapsed(r, threads, loops)
		if took >= minTime/2 || loops >= maxLoops {
			return clamp(int(float64(loops)*minTime/took), 1, maxLoops)
		}
		loops *= clamp(int(minTime/took/2), 2, 16)
	}
}

func clamp(value, low, high int) int {
	if value < low {
		return low
	}
	if value > high {
		return high
	}
	return value
}

func measure(r row, threads int, p plan) cell {
	runtime.GOMAXPROCS(threads)
	found := cell{r.operation, r.name, threads, calibrate(r, threads, p.MinTime), nil}
	for round := 0; round <= p.Values; round++ {
		value := elapsed(r, threads, found.Loops) / float64(found.Loops)
		if round > 0 { // the first warms up
			found.Values = append(found.Values, value)
		}
	}
	return found
}

func fail(what interface{}) {
	fmt.Fprintln(os.Stderr, "error:", what)
	os.Exit(1)
}

func main() {
	if len(os.Args) == 2 && os.Args[1] == "--list" {
		for _, r := range rows {
			fmt.Printf("%s\t%s\n", r.operation, r.name)
		}
		return
	}
	if len(os.Args) != 3 {
		fail("usage: perf OUTPUT PLAN, or perf --list")
	}
	var p plan
	asked, err := os.ReadFile(os.Args[2])
	if err == nil {
		err = json.Unmarshal(asked, &p)
	}
	if err != nil {
		fail(err)
	}
	var stopped atomic.Bool
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, os.Interrupt)
	go func() {
		<-interrupts
		stopped.Store(true)
	}()
	found := report{runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), []cell{}}
	for _, r := range rows {
		threads := p.Operations[r.operation]
		sort.Ints(threads)
		for _, count := range threads {
			if stopped.Load() {
				break
			}
			c := measure(r, count, p)
			found.Cells = append(found.Cells, c)
			sorted := append([]float64{}, c.Values...)
			sort.Float64s(sorted)
			line, _ := json.Marshal(map[string]interface{}{
				"event": "done", "operation": c.Operation, "row": c.Row, "threads": c.Threads,
				"mops": float64(c.Threads) / sorted[len(sorted)/2] / 1e6,
			})
			fmt.Printf("@%s\n", line)
		}
	}
	text, _ := json.MarshalIndent(found, "", " ")
	if err := os.WriteFile(os.Args[1], append(text, '\n'), 0o644); err != nil {
		fail(err)
	}
	if stopped.Load() {
		os.Exit(130)
	}
}
