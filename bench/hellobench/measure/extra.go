package measure

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/slackerd/slacker/bench/hellobench/catalog"
	"github.com/slackerd/slacker/bench/hellobench/drive"
)

// scale starts an image many times at once, on a worker that never saw it.
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

// LongRunImages are the images that have a load.
func LongRunImages() []string {
	var names []string
	for _, l := range loads(1) {
		names = append(names, l.image)
	}
	return names
}

// longRun measures the throughput of a server.
func (s *Session) longRun(ctx context.Context, d drive.Driver, i drive.Image, r *Record) (err error) {
	all := loads(s.Seconds)
	n := slices.IndexFunc(all, func(l load) bool { return l.image == i.Name })
	if n < 0 {
		return fmt.Errorf("there is no load for image %s", i.Name)
	}
	l := all[n]
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

// multiMake builds a program with one compiler version.
func (s *Session) multiMake(ctx context.Context, d drive.Driver, i drive.Image, r *Record) (err error) {
	i.Task = MultiMakeTask()
	defer func() { err = errors.Join(err, d.Forget(context.WithoutCancel(ctx), i)) }()
	r.Pull, r.PullBytes, _, err = s.counted(func() error { return d.Pull(ctx, i) })
	if err != nil {
		return fmt.Errorf("pull: %w", err)
	}
	r.Phases, err = s.run(ctx, d, i, "make", &r.Run, &r.RunBytes)
	return err
}
