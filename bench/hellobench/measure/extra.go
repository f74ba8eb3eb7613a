package measure

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/slackerd/slacker/bench/hellobench/catalog"
	"github.com/slackerd/slacker/bench/hellobench/drive"
)

// Scales starts each image many times at once, on a worker that never saw it.
func (s *Session) Scales(ctx context.Context, starts []int) error {
	s.begin(len(starts) * len(s.Images) * len(s.Drivers))
	for _, i := range s.Images {
		for turn, n := range starts {
			for _, d := range order(s.Drivers, turn) {
				r := Record{Kind: Scale, Image: i.Name, Driver: d.Name(), Link: s.Bed.Link.Spec.Name, N: n}
				if err := s.once(ctx, r, func(r *Record) error { return s.scale(ctx, d, i, r) }); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (s *Session) scale(ctx context.Context, d drive.Driver, i drive.Image, r *Record) (err error) {
	defer func() { err = errors.Join(err, d.Forget(context.WithoutCancel(ctx), i)) }()
	r.Pull, r.PullBytes, _, err = s.counted(func() error { return d.Pull(ctx, i) })
	if err != nil {
		return fmt.Errorf("pull: %w", err)
	}
	all := make([]*drive.Started, r.N)
	errs := make([]error, r.N)
	r.Run, r.RunBytes, _, err = s.counted(func() error {
		var each sync.WaitGroup
		for n := range r.N {
			each.Go(func() { all[n], errs[n] = d.Run(ctx, i, containerID(i, d, "scale", n)) })
		}
		each.Wait()
		return errors.Join(errs...)
	})
	for _, started := range all {
		if started != nil {
			r.Mean += started.Total().Seconds() / float64(r.N)
			err = errors.Join(err, started.End(context.WithoutCancel(ctx)))
		}
	}
	return err
}

// load is a program in an image that puts load on its server.
type load struct {
	image   string
	prepare []string
	args    []string
	// read finds figures in what it printed.
	read func(string) map[string]float64
}

// loads are those of the paper, and a web server.
func loads(seconds int) []load {
	t := strconv.Itoa(seconds)
	return []load{
		{
			image: "redis", args: []string{"redis-benchmark", "-t", "set,get", "-n", strconv.Itoa(20000 * seconds), "-c", "16", "-d", "256", "-r", "100000", "--csv"},
			read: func(out string) map[string]float64 {
				return map[string]float64{"SET/s": csvFigure(out, "SET"), "GET/s": csvFigure(out, "GET")}
			},
		},
		{
			image:   "postgres",
			prepare: []string{"/usr/lib/postgresql/15/bin/pgbench", "-U", "postgres", "-h", "127.0.0.1", "-i", "-q", "-s", "5", "postgres"},
			args:    []string{"/usr/lib/postgresql/15/bin/pgbench", "-U", "postgres", "-h", "127.0.0.1", "-T", t, "-c", "4", "-n", "postgres"},
			read:    func(out string) map[string]float64 { return map[string]float64{"transactions/s": after(out, "tps = ")} },
		},
		{
			image: "httpd", args: []string{"ab", "-q", "-c", "8", "-n", strconv.Itoa(3000 * seconds), "http://127.0.0.1/"},
			read: func(out string) map[string]float64 {
				return map[string]float64{"requests/s": after(out, "Requests per second:")}
			},
		},
	}
}

// csvFigure is the second column of the row of redis-benchmark's table.
func csvFigure(out, row string) float64 {
	return after(strings.ReplaceAll(out, `"`, ""), row+",")
}

// after is the number that follows a text; 0 if there is none.
func after(out, text string) float64 {
	_, rest, found := strings.Cut(out, text)
	f := strings.FieldsFunc(rest, func(r rune) bool { return r == ' ' || r == ',' || r == '\n' })
	if !found || len(f) == 0 {
		return 0
	}
	v, err := strconv.ParseFloat(f[0], 64)
	if err != nil {
		return 0
	}
	return v
}

// LongRuns measures the throughput of servers. The session's images that have a
// load are used.
func (s *Session) LongRuns(ctx context.Context, seconds int) error {
	s.begin(s.Rounds * len(loads(seconds)) * len(s.Drivers))
	for round := range s.Rounds {
		for _, l := range loads(seconds) {
			for _, i := range s.Images {
				if i.Name != l.image {
					continue
				}
				for _, d := range order(s.Drivers, round) {
					r := Record{Kind: LongRun, Image: i.Name, Driver: d.Name(), Link: s.Bed.Link.Spec.Name, Round: round}
					if err := s.once(ctx, r, func(r *Record) error { return s.longRun(ctx, d, i, l, r) }); err != nil {
						return err
					}
				}
			}
		}
	}
	return nil
}

func (s *Session) longRun(ctx context.Context, d drive.Driver, i drive.Image, l load, r *Record) (err error) {
	defer func() { err = errors.Join(err, d.Forget(context.WithoutCancel(ctx), i)) }()
	if err := d.Pull(ctx, i); err != nil {
		return fmt.Errorf("pull: %w", err)
	}
	started, err := d.Run(ctx, i, containerID(i, d, "long", 0))
	if err != nil {
		return fmt.Errorf("run: %w", err)
	}
	defer func() { err = errors.Join(err, started.End(context.WithoutCancel(ctx))) }()
	if l.prepare != nil {
		if _, err := started.Exec(ctx, l.prepare...); err != nil {
			return err
		}
	}
	out, err := started.Exec(ctx, l.args...)
	if err != nil {
		return err
	}
	r.Figures = l.read(out)
	for name, v := range r.Figures {
		if v == 0 {
			return fmt.Errorf("want %s in the output of %s, got %q", name, l.args[0], out)
		}
	}
	return nil
}

// multiMakeFiles is a program of several files, and its Makefile.
func multiMakeFiles() map[string]string {
	const parts = 12
	files := map[string]string{}
	var objects, calls, declared strings.Builder
	for n := range parts {
		fmt.Fprintf(&objects, " part%d.o", n)
		fmt.Fprintf(&declared, "double part%d(double);\n", n)
		fmt.Fprintf(&calls, "\tx = part%d(x);\n", n)
		var body strings.Builder
		for k := range 40 {
			fmt.Fprintf(&body, "static double f%d(double x) { double a[64]; for (int i = 0; i < 64; i++) a[i] = sin(x + i) * %d; for (int i = 1; i < 64; i++) x += a[i] * a[i-1]; return x; }\n", k, k+n)
		}
		fmt.Fprintf(&body, "double part%d(double x) {\n", n)
		for k := range 40 {
			fmt.Fprintf(&body, "\tx += f%d(x);\n", k)
		}
		files[fmt.Sprintf("part%d.c", n)] = "#include <math.h>\n" + body.String() + "\treturn x;\n}\n"
	}
	files["main.c"] = "#include <stdio.h>\n" + declared.String() + "int main(void) {\n\tdouble x = 1;\n" + calls.String() +
		"\tprintf(\"hello %d\\n\", x == x);\n\treturn 0;\n}\n"
	files["Makefile"] = "CFLAGS = -O2\nhello: main.o" + objects.String() + "\n\t$(CC) -o $@ $^ -lm\n"
	return files
}

// MultiMakeTask builds and runs a program.
func MultiMakeTask() catalog.Task {
	return catalog.Task{
		Args: []string{"sh"}, Stdin: "cd /src && make -s CC=gcc hello && ./hello\n", Mount: "/src", Files: multiMakeFiles(), Output: "hello",
	}
}

// MultiMakes builds a program with each image, one compiler version after the other.
func (s *Session) MultiMakes(ctx context.Context) error {
	s.begin(s.Rounds * len(s.Images) * len(s.Drivers))
	for round := range s.Rounds {
		for n, i := range s.Images {
			i.Task = MultiMakeTask()
			for _, d := range order(s.Drivers, round+n) {
				r := Record{Kind: MultiMake, Image: i.Name, Driver: d.Name(), Link: s.Bed.Link.Spec.Name, Round: round}
				if err := s.once(ctx, r, func(r *Record) error { return s.multiMake(ctx, d, i, r) }); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (s *Session) multiMake(ctx context.Context, d drive.Driver, i drive.Image, r *Record) (err error) {
	defer func() { err = errors.Join(err, d.Forget(context.WithoutCancel(ctx), i)) }()
	r.Pull, r.PullBytes, _, err = s.counted(func() error { return d.Pull(ctx, i) })
	if err != nil {
		return fmt.Errorf("pull: %w", err)
	}
	r.Phases, err = s.run(ctx, d, i, "make", &r.Run, &r.RunBytes)
	return err
}
