package catalog

const hello = "hello"

// echo is the task of distributions.
var echo = Task{Args: []string{"echo", hello}, Output: hello}

func command(args ...string) Task { return Task{Args: args, Output: hello} }

// typed is a program on the standard input of the image's own command.
func typed(stdin string) Task { return Task{Stdin: stdin + "\n", Output: hello} }

// piped is a script on the standard input of a shell.
func piped(script string) Task {
	return Task{Args: []string{"sh"}, Stdin: script + "\n", Output: hello}
}

// source is a script on the standard input of a shell, for one file of source.
func source(dir, file, text, script string) Task {
	return Task{Args: []string{"sh"}, Stdin: "cd " + dir + " && " + script + "\n", Mount: dir, Files: map[string]string{file: text}, Output: hello}
}

func ready(line string, env ...string) Task { return Task{Ready: line, Env: env} }

func answers(url string) Task { return Task{URL: url} }

// served is a server by a program that is mounted.
func served(program, dir, file, text, url string) Task {
	return Task{Args: []string{program, dir + "/" + file}, Mount: dir, Files: map[string]string{file: text}, URL: url}
}

const (
	cSource = `#include <stdio.h>
int main(void) { printf("hello\n"); return 0; }
`
	goSource = `package main

import "fmt"

func main() { fmt.Println("hello") }
`
	javaSource = `public class Main {
	public static void main(String[] args) { System.out.println("hello"); }
}
`
	csSource = `class Hello {
	static void Main() { System.Console.WriteLine("hello"); }
}
`
	idlSource = `service Hello { string hello() }
`
	nodeSource = `require("http").createServer(function (req, res) { res.end("hello\n"); }).listen(80);
`
	leinProject = `(defproject hello "1.0" :dependencies [[org.clojure/clojure "1.11.1"]] :main hello.core)
`
	leinSource = `(ns hello.core)
(defn -main [] (println "hello"))
`
)

var clojure = Task{
	Args: []string{"sh"}, Stdin: "cd /hello && lein run\n", Output: hello, Mount: "/hello",
	Files: map[string]string{"project.clj": leinProject, "src/hello/core.clj": leinSource},
}

var images = []Image{
	{Name: "alpine", Category: Distribution, Task: echo},
	{Name: "busybox", Category: Distribution, Task: echo},
	{Name: "centos", Category: Distribution, Task: echo},
	{Name: "cirros", Category: Distribution, Task: echo},
	{Name: "crux", Category: Distribution, Task: echo},
	{Name: "debian", Category: Distribution, Task: echo},
	{Name: "fedora", Category: Distribution, Task: echo},
	{Name: "mageia", Category: Distribution, Task: echo},
	{Name: "opensuse", Category: Distribution, Task: echo},
	{Name: "oraclelinux", Category: Distribution, Task: echo},
	{Name: "ubuntu", Category: Distribution, Task: echo},
	{Name: "ubuntu-debootstrap", Category: Distribution, Task: echo},
	{Name: "ubuntu-upstart", Category: Distribution, Task: echo},

	{Name: "cassandra", Category: Database, Task: ready("Starting listening for CQL clients")},
	{Name: "crate", Category: Database, Task: ready("started")},
	{Name: "elasticsearch", Category: Database, Task: ready("started", "discovery.type=single-node")},
	{Name: "mariadb", Category: Database, Task: ready("ready for connections", "MARIADB_ROOT_PASSWORD=abc", "MYSQL_ROOT_PASSWORD=abc")},
	{Name: "mongo", Category: Database, Task: ready("aiting for connections")},
	{Name: "mysql", Category: Database, Task: ready("ready for connections", "MYSQL_ROOT_PASSWORD=abc")},
	{Name: "percona", Category: Database, Task: ready("ready for connections", "MYSQL_ROOT_PASSWORD=abc")},
	{Name: "postgres", Category: Database, Task: ready("database system is ready to accept connections", "POSTGRES_PASSWORD=abc")},
	{Name: "redis", Category: Database, Task: ready("eady to accept connections")},
	{Name: "rethinkdb", Category: Database, Task: ready("Server ready")},

	{Name: "clojure", Category: Language, Task: clojure, Local: &Task{Args: []string{"clojure", "-e", `(println "hello")`}, Output: hello}},
	{Name: "gcc", Category: Language, Task: source("/src", "main.c", cSource, "gcc main.c && ./a.out")},
	{Name: "golang", Category: Language, Task: source("/go/src", "main.go", goSource, "go run main.go")},
	{Name: "haskell", Category: Language, Task: typed(`"hello"`)},
	{Name: "hylang", Category: Language, Task: typed(`(print "hello")`)},
	{Name: "java", Category: Language, Task: source("/src", "Main.java", javaSource, "javac Main.java && java Main")},
	{Name: "jruby", Category: Language, Task: piped(`jruby -e 'puts "hello"'`)},
	{Name: "julia", Category: Language, Task: piped(`julia -e 'println("hello")'`)},
	{Name: "mono", Category: Language, Task: source("/src", "main.cs", csSource, "mcs main.cs && mono main.exe")},
	{Name: "perl", Category: Language, Task: command("perl", "-e", `print("hello\n")`)},
	{Name: "php", Category: Language, Task: piped(`php -r 'echo "hello\n";'`)},
	{Name: "pypy", Category: Language, Task: command("pypy3", "-c", `print("hello")`)},
	{Name: "python", Category: Language, Task: command("python", "-c", `print("hello")`)},
	{Name: "r-base", Category: Language, Task: Task{Args: []string{"R", "--no-save"}, Stdin: "sprintf(\"hello\")\n", Output: hello}},
	{Name: "rakudo-star", Category: Language, Task: command("raku", "-e", `say("hello")`)},
	{Name: "ruby", Category: Language, Task: piped(`ruby -e 'puts "hello"'`)},
	{Name: "thrift", Category: Language, Task: source("/src", "hello.idl", idlSource, "thrift --gen py hello.idl && ls gen-py")},

	{Name: "glassfish", Category: WebServer, Task: ready("Running GlassFish")},
	{Name: "httpd", Category: WebServer, Task: answers("http://127.0.0.1:80/")},
	{Name: "jetty", Category: WebServer, Task: answers("http://127.0.0.1:8080/")},
	{Name: "nginx", Category: WebServer, Task: answers("http://127.0.0.1:80/")},
	{Name: "php-zendserver", Category: WebServer, Task: ready("Zend Server started")},
	{Name: "tomcat", Category: WebServer, Task: answers("http://127.0.0.1:8080/")},

	{Name: "django", Category: WebFramework, Task: piped("cd /tmp && django-admin startproject hello && ls")},
	{Name: "iojs", Category: WebFramework, Task: served("iojs", "/src", "index.js", nodeSource, "http://127.0.0.1:80/")},
	{Name: "node", Category: WebFramework, Task: served("node", "/src", "index.js", nodeSource, "http://127.0.0.1:80/")},
	{
		Name: "rails", Category: WebFramework, Task: piped("cd /tmp && rails new hello && ls"),
		Local: &Task{Args: []string{"sh"}, Stdin: "cd /tmp && rails new hello --skip-bundle --skip-javascript --skip-git && ls\n", Output: hello},
	},

	{Name: "drupal", Category: Other, Task: answers("http://127.0.0.1:80/")},
	{Name: "ghost", Category: Other, Task: answers("http://127.0.0.1:2368/")},
	{Name: "hello-world", Category: Other, Task: Task{Output: "Hello"}},
	{Name: "jenkins", Category: Other, Task: ready("Jenkins is fully up and running")},
	{Name: "rabbitmq", Category: Other, Task: ready("tartup complete"), Local: &Task{Ready: "tartup complete", Env: []string{"HOSTNAME=localhost"}}},
	{Name: "registry", Category: Other, Task: answers("http://127.0.0.1:5000/")},
	{Name: "sonarqube", Category: Other, Task: ready("SonarQube is operational")},
}
