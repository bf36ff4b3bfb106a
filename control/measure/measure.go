// Package measure computes a number of each row by an expression that people have written, such
// as `amount / items` or `country in ["DE", "FR"] and row["x.0"] > 3`.
//
//   - [Check] reads an expression before any model is known.
//   - [New] compiles it for the columns of a model; an [Expression] gives the number of a row.
//
// Expressions have no loops, no memory and no way out: what one costs is bounded by its length
// and the texts of its row. An Expression belongs to one goroutine at a time.
package measure

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"

	"github.com/expr-lang/expr/builtin"
	"github.com/expr-lang/expr/checker"
	"github.com/expr-lang/expr/compiler"
	"github.com/expr-lang/expr/conf"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/optimizer"
	"github.com/expr-lang/expr/parser"
	"github.com/expr-lang/expr/vm"

	"github.com/millrace-ml/millrace/drift/sketch"
)

// ErrExpression is what each fault of an expression is.
var ErrExpression = errors.New("measure: not an expression that can be used")

// MaxLength bounds an expression, in bytes.
const MaxLength = 1000

// memoryBudget bounds what lists in an expression may take, in elements.
const memoryBudget = 10_000

// Expression is one that is compiled for the rows of a model.
type Expression struct {
	program *vm.Program
	machine vm.VM
	values  map[string]any // what the program reads
	columns []column
	text    []byte
}

// column is one that an expression reads.
type column struct {
	name string
	at   int // in a row
	kind reflect.Kind
}

// Check says what is wrong with an expression whatever the columns are.
func Check(expression string) error {
	_, err := parse(expression, &resolver{})
	return err
}

// New compiles an expression for rows of these columns. The values of example are of the kinds
// that those of all rows are.
func New(expression string, columns []string, example []sketch.Value) (*Expression, error) {
	r := &resolver{columns: columns, known: true}
	tree, err := parse(expression, r)
	if err != nil {
		return nil, err
	}
	e := &Expression{values: make(map[string]any), machine: vm.VM{MemoryBudget: memoryBudget}}
	for at, name := range columns {
		if kind := kindOf(example[at]); r.used[name] {
			e.columns = append(e.columns, column{variable(name), at, kind.Kind()})
			e.values[variable(name)] = reflect.Zero(kind).Interface()
		}
	}
	config := conf.CreateNew()
	config.WithEnv(e.values)
	for name, f := range functions {
		config.Functions[name] = function(name, f)
	}
	result, err := checker.Check(tree, config)
	if err != nil {
		return nil, fault(err)
	}
	if err := isNumber(result); err != nil {
		return nil, err
	}
	if err := optimizer.Optimize(&tree.Node, config); err != nil {
		return nil, fault(err)
	}
	if e.program, err = compiler.Compile(tree, config); err != nil {
		return nil, fault(err)
	}
	return e, nil
}

// Value returns the number of a row, where true is 1 and false 0. There is none when a column
// that the expression reads is missing or NaN, and when the result is not a finite number.
func (e *Expression) Value(row []sketch.Value) (float64, bool) {
	for _, c := range e.columns {
		v := row[c.at]
		x := v.Float()
		switch {
		case c.kind == reflect.String && !v.IsMissing():
			e.text = v.AppendText(e.text[:0])
			if e.values[c.name] != string(e.text) { // else the same text serves again
				e.values[c.name] = string(e.text)
			}
		case math.IsNaN(x):
			return 0, false
		case c.kind == reflect.Bool:
			e.values[c.name] = x != 0
		default:
			e.values[c.name] = x
		}
	}
	result, err := e.machine.Run(e.program, e.values)
	if err != nil {
		return 0, false
	}
	return number(result)
}

func number(result any) (float64, bool) {
	switch x := result.(type) {
	case float64:
		return x, !math.IsNaN(x) && !math.IsInf(x, 0)
	case int:
		return float64(x), true
	case bool:
		if x {
			return 1, true
		}
		return 0, true
	}
	return 0, false
}

// kindOf is the type that a value has in an expression.
func kindOf(v sketch.Value) reflect.Type {
	switch {
	case v.IsNumber() || v.IsMissing():
		return reflect.TypeFor[float64]()
	case math.IsNaN(v.Float()):
		return reflect.TypeFor[string]()
	}
	return reflect.TypeFor[bool]()
}

// isNumber refuses results that are none. What the branches of `? :` have in common may only be
// known for a row.
func isNumber(result reflect.Type) error {
	switch result.Kind() {
	case reflect.Float64, reflect.Int, reflect.Bool, reflect.Interface:
		return nil
	}
	return fmt.Errorf("%w: it gives %s, must give a number, or true or false", ErrExpression,
		strings.ReplaceAll(result.String(), "interface {}", "any"))
}

// functions are those of mathematics that the library lacks.
var functions = map[string]func(float64) float64{
	"exp": math.Exp, "log": math.Log, "sqrt": math.Sqrt,
}

func function(name string, f func(float64) float64) *builtin.Function {
	return &builtin.Function{Name: name, Types: []reflect.Type{reflect.TypeOf(f)},
		Func: func(args ...any) (any, error) {
			x, ok := args[0].(float64)
			if !ok {
				return nil, fmt.Errorf("%s of %T", name, args[0])
			}
			return f(x), nil
		}}
}

// parse reads an expression and resolves its names.
func parse(expression string, r *resolver) (*parser.Tree, error) {
	if len(expression) > MaxLength {
		return nil, fmt.Errorf("%w: it has %d bytes, %d at most", ErrExpression, len(expression),
			MaxLength)
	}
	tree, err := parser.Parse(expression)
	if err != nil {
		return nil, fault(err)
	}
	if err := r.resolve(&tree.Node); err != nil {
		return nil, err
	}
	return tree, nil
}

// fault words an error of the library in one line, with its place.
func fault(err error) error {
	var at *file.Error
	if errors.As(err, &at) {
		return faultAt(at.Location, "%s", at.Message)
	}
	return fmt.Errorf("%w: %w", ErrExpression, err)
}

func faultAt(at file.Location, format string, args ...any) error {
	return fmt.Errorf("%w: at character %d: %s", ErrExpression, at.From+1,
		fmt.Sprintf(format, args...))
}
