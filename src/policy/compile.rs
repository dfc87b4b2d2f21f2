//! CEL (the Common Expression Language) to typed trees: parsed by the `cel` crate, checked and compiled here.
//!
//! Numbers are one type: `count > 3` and `count > 3.0` are the same, as nobody who writes a rule wants the
//! difference. `known(x)` asks whether a value is there.

use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, SourceInfo, operators};
use cel::parser::Parser;

use super::expression::{Comparison, Condition, Number, Operator, Part, Text};
use crate::mistake::nearest;
use crate::transaction::{Field, Schema};

/// The names a rule may use.
pub struct Vocabulary<'a> {
    pub schema: &'a Schema,
    /// By slot.
    pub features: &'a [String],
}

/// Byte in the rule's text, what is wrong, how to mend it.
type Wrong = (usize, String, Option<String>);

enum Typed {
    Condition(Condition),
    Number(Number),
    Text(Text),
}

impl Typed {
    fn kind(&self) -> &'static str {
        match self {
            Self::Condition(_) => "a condition",
            Self::Number(_) => "a number",
            Self::Text(_) => "a text",
        }
    }
}

const FUNCTIONS: [&str; 6] = ["known", "size", "hour", "startsWith", "endsWith", "contains"];
const OTHERS: [&str; 3] = ["score", "amount_minor", "amount"];
/// Longer rules are a program, and the parser is recursive.
const MAX_RULE_BYTES: usize = 4_096;

impl Vocabulary<'_> {
    /// # Errors
    /// Everything that is wrong with it.
    pub(super) fn compile(&self, text: &str) -> Result<Condition, Vec<Wrong>> {
        if text.len() > MAX_RULE_BYTES {
            return Err(vec![(0, format!("longer than {MAX_RULE_BYTES} bytes"), None)]);
        }
        let (expression, source) = Parser::new().parse_with_source_info(text).map_err(|errors| {
            errors.errors.into_iter().map(|error| (place(text, error.pos), error.msg, None)).collect::<Vec<_>>()
        })?;
        let mut compiler = Compiler { vocabulary: self, source, wrong: Vec::new() };
        let condition = compiler.condition(&expression);
        match condition {
            Some(condition) if compiler.wrong.is_empty() => Ok(condition),
            _ => Err(compiler.wrong),
        }
    }
}

/// The byte at a line (from 1) and column (from 0 or 1) of the text.
fn place(text: &str, (line, column): (isize, isize)) -> usize {
    let before = usize::try_from(line - 1).unwrap_or_default();
    let start: usize = text.split_inclusive('\n').take(before).map(str::len).sum();
    (start + usize::try_from(column).unwrap_or_default()).min(text.len())
}

struct Compiler<'a> {
    vocabulary: &'a Vocabulary<'a>,
    source: SourceInfo,
    wrong: Vec<Wrong>,
}

impl Compiler<'_> {
    fn say(&mut self, at: &IdedExpr, message: impl Into<String>, help: Option<String>) {
        let offset = self.source.offset_for(at.id).map_or(0, |(start, _)| start as usize);
        self.wrong.push((offset, message.into(), help));
    }

    fn condition(&mut self, expression: &IdedExpr) -> Option<Condition> {
        match self.typed(expression)? {
            Typed::Condition(condition) => Some(condition),
            other => {
                self.say(expression, format!("expected a condition, this is {}", other.kind()), None);
                None
            }
        }
    }

    fn number(&mut self, expression: &IdedExpr) -> Option<Number> {
        match self.typed(expression)? {
            Typed::Number(number) => Some(number),
            other => {
                self.say(expression, format!("expected a number, this is {}", other.kind()), None);
                None
            }
        }
    }

    fn text(&mut self, expression: &IdedExpr) -> Option<Text> {
        match self.typed(expression)? {
            Typed::Text(text) => Some(text),
            other => {
                self.say(expression, format!("expected a text, this is {}", other.kind()), None);
                None
            }
        }
    }

    fn typed(&mut self, expression: &IdedExpr) -> Option<Typed> {
        match &expression.expr {
            Expr::Literal(LiteralValue::Boolean(value)) => Some(Typed::Condition(Condition::Always(*value.inner()))),
            Expr::Literal(LiteralValue::Int(value)) => Some(constant(*value.inner() as f64)),
            Expr::Literal(LiteralValue::UInt(value)) => Some(constant(*value.inner() as f64)),
            Expr::Literal(LiteralValue::Double(value)) => Some(constant(*value.inner())),
            Expr::Literal(LiteralValue::String(value)) => Some(Typed::Text(Text::Constant(value.inner().into()))),
            Expr::Ident(name) => self.name(expression, name),
            Expr::Call(call) => self.call(expression, call),
            Expr::Select(select) => {
                let help = "fields and features are written by their own names, without a point";
                self.say(expression, format!("`.{}` is not supported", select.field), Some(help.into()));
                None
            }
            _ => {
                let help = format!("rules know comparisons, && || !, arithmetic, in, ?: and {}", FUNCTIONS.join(", "));
                self.say(expression, "this is not supported in a rule", Some(help));
                None
            }
        }
    }

    fn name(&mut self, expression: &IdedExpr, name: &str) -> Option<Typed> {
        if let Some(slot) = self.vocabulary.features.iter().position(|feature| feature == name) {
            return Some(Typed::Number(Number::Feature(slot)));
        }
        let found = match (name, self.vocabulary.schema.field(name)) {
            ("score", _) => Typed::Number(Number::Score),
            ("amount_minor", _) => Typed::Number(Number::AmountMinor),
            (_, Some(Field::Amount)) => Typed::Number(Number::Amount),
            (_, Some(Field::EventTime)) => Typed::Number(Number::EventTime),
            (_, Some(Field::Number(field))) => Typed::Number(Number::Field(field)),
            (_, Some(Field::TransactionId)) => Typed::Text(Text::Id),
            (_, Some(Field::Currency)) => Typed::Text(Text::Currency),
            (_, Some(Field::Text(field))) => Typed::Text(Text::Field(field)),
            (_, None) => {
                let known = self.vocabulary.features.iter().map(String::as_str);
                let known = known.chain(self.vocabulary.schema.names()).chain(OTHERS);
                let help = nearest(name, known).map(|near| format!("did you mean `{near}`?"));
                self.say(expression, format!("no field, feature or `score` is called `{name}`"), help);
                return None;
            }
        };
        Some(found)
    }

    fn call(&mut self, expression: &IdedExpr, call: &CallExpr) -> Option<Typed> {
        let comparison = match call.func_name.as_str() {
            operators::LESS => Some(Comparison::Less),
            operators::LESS_EQUALS => Some(Comparison::LessOrEqual),
            operators::GREATER => Some(Comparison::Greater),
            operators::GREATER_EQUALS => Some(Comparison::GreaterOrEqual),
            operators::EQUALS => Some(Comparison::Equal),
            operators::NOT_EQUALS => Some(Comparison::NotEqual),
            _ => None,
        };
        let operator = match call.func_name.as_str() {
            operators::ADD => Some(Operator::Add),
            operators::SUBSTRACT => Some(Operator::Subtract),
            operators::MULTIPLY => Some(Operator::Multiply),
            operators::DIVIDE => Some(Operator::Divide),
            operators::MODULO => Some(Operator::Remainder),
            _ => None,
        };
        match (call.func_name.as_str(), call.args.as_slice(), &call.target) {
            (operators::LOGICAL_AND, parts, None) => {
                let parts: Vec<_> = parts.iter().map(|part| self.condition(part)).collect();
                Some(Typed::Condition(Condition::All(parts.into_iter().collect::<Option<_>>()?)))
            }
            (operators::LOGICAL_OR, parts, None) => {
                let parts: Vec<_> = parts.iter().map(|part| self.condition(part)).collect();
                Some(Typed::Condition(Condition::Any(parts.into_iter().collect::<Option<_>>()?)))
            }
            (operators::LOGICAL_NOT, [inner], None) => {
                Some(Typed::Condition(Condition::Not(Box::new(self.condition(inner)?))))
            }
            (operators::NEGATE, [inner], None) => {
                let inner = self.number(inner)?;
                Some(arithmetic(Number::Constant(0.0), Operator::Subtract, inner))
            }
            (operators::CONDITIONAL, [condition, then, otherwise], None) => {
                let (condition, then_typed, otherwise_typed) =
                    (self.condition(condition), self.typed(then), self.typed(otherwise));
                match (condition?, then_typed?, otherwise_typed?) {
                    (condition, Typed::Condition(then), Typed::Condition(otherwise)) => {
                        Some(Typed::Condition(Condition::If(Box::new((condition, then, otherwise)))))
                    }
                    (condition, Typed::Number(then), Typed::Number(otherwise)) => {
                        Some(Typed::Number(Number::If(Box::new((condition, then, otherwise)))))
                    }
                    (_, then_typed, otherwise_typed) => {
                        let message = format!(
                            "both sides of ?: must be numbers or conditions, these are {} and {}",
                            then_typed.kind(),
                            otherwise_typed.kind()
                        );
                        self.say(otherwise, message, None);
                        None
                    }
                }
            }
            (operators::IN, [element, list], None) => self.member(element, list).map(Typed::Condition),
            (_, [left, right], None) if comparison.is_some() => {
                self.compare(left, comparison?, right).map(Typed::Condition)
            }
            (_, [left, right], None) if operator.is_some() => {
                let (left, right) = (self.number(left), self.number(right));
                Some(arithmetic(left?, operator?, right?))
            }
            ("known", [value], None) => Some(Typed::Condition(match self.typed(value)? {
                Typed::Text(text) => Condition::KnownText(text),
                Typed::Number(number) => Condition::KnownNumber(number),
                Typed::Condition(_) => {
                    self.say(value, "known() is of a field or feature", None);
                    return None;
                }
            })),
            ("size", [text], None) => Some(Typed::Number(Number::Size(self.text(text)?))),
            ("size", [], Some(text)) => Some(Typed::Number(Number::Size(self.text(text)?))),
            ("hour", [time], None) => Some(Typed::Number(Number::Hour(Box::new(self.number(time)?)))),
            ("startsWith" | "endsWith" | "contains", [wanted], Some(text)) => {
                let part = match call.func_name.as_str() {
                    "startsWith" => Part::Start,
                    "endsWith" => Part::End,
                    _ => Part::Inside,
                };
                let (text, wanted) = (self.text(text), self.text(wanted));
                Some(Typed::Condition(Condition::TextHas(text?, part, wanted?)))
            }
            (name, ..) => {
                let help = nearest(name, FUNCTIONS).map_or_else(
                    || format!("functions are {}", FUNCTIONS.join(", ")),
                    |near| format!("did you mean `{near}`?"),
                );
                self.say(expression, format!("`{name}` is not supported here"), Some(help));
                None
            }
        }
    }

    fn compare(&mut self, left: &IdedExpr, comparison: Comparison, right: &IdedExpr) -> Option<Condition> {
        let (typed_left, typed_right) = (self.typed(left), self.typed(right));
        let equality = matches!(comparison, Comparison::Equal | Comparison::NotEqual);
        let equal = comparison == Comparison::Equal;
        match (typed_left?, typed_right?) {
            (Typed::Number(Number::Feature(slot)), Typed::Number(Number::Constant(value))) => {
                Some(Condition::Feature(slot, comparison, value))
            }
            (Typed::Number(left), Typed::Number(right)) => Some(Condition::Numbers(left, comparison, right)),
            (Typed::Text(left), Typed::Text(right)) if equality => Some(Condition::Texts(left, equal, right)),
            (Typed::Condition(left), Typed::Condition(right)) if equality => {
                Some(Condition::Same(Box::new((left, right)), equal))
            }
            (typed_left, typed_right) => {
                let message = format!("{} cannot be compared with {} this way", typed_left.kind(), typed_right.kind());
                self.say(right, message, None);
                None
            }
        }
    }

    fn member(&mut self, element: &IdedExpr, list: &IdedExpr) -> Option<Condition> {
        let Expr::List(items) = &list.expr else {
            self.say(list, "`in` needs a list, such as [\"US\", \"GB\"]", None);
            return None;
        };
        let element = self.typed(element)?;
        let mut texts: Vec<Box<str>> = Vec::new();
        let mut numbers = Vec::new();
        for item in &items.elements {
            match self.typed(item)? {
                Typed::Text(Text::Constant(text)) => texts.push(text),
                Typed::Number(Number::Constant(number)) => numbers.push(number),
                _ => {
                    self.say(item, "a list holds texts or numbers written out", None);
                    return None;
                }
            }
        }
        match element {
            Typed::Text(text) if numbers.is_empty() => {
                texts.sort_unstable();
                Some(Condition::TextIn(text, texts))
            }
            Typed::Number(number) if texts.is_empty() => Some(Condition::NumberIn(number, numbers)),
            element => {
                self.say(list, format!("the list does not hold values like the left side, {}", element.kind()), None);
                None
            }
        }
    }
}

fn constant(value: f64) -> Typed {
    Typed::Number(Number::Constant(value))
}

fn arithmetic(left: Number, operator: Operator, right: Number) -> Typed {
    if let (Number::Constant(left), Operator::Subtract, Number::Constant(right)) = (&left, operator, &right) {
        return constant(left - right);
    }
    Typed::Number(Number::Arithmetic(Box::new((left, right)), operator))
}
