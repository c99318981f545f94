//! Signing up and logging in.

use maud::{Markup, html};

use super::layout::{Here, page, refusal};
use super::views::{Frame, LogInForm, SignUpForm};

/// The form for a new account.
#[must_use]
pub fn sign_up(frame: &Frame, form: &SignUpForm) -> Markup {
    let content = html! {
        section.narrow {
            h1 { "Join the herd" }
            (refusal(form.refused.as_deref()))
            form.stack method="post" action="/signup" {
                label {
                    span { "Name" }
                    input name="name" value=(form.name) required autofocus maxlength="30"
                        pattern="[a-z0-9._]{1,30}" autocomplete="username" autocapitalize="none"
                        spellcheck="false" aria-describedby="name-help";
                    small #name-help { "Up to 30 small letters, digits, dots and underscores. It cannot be changed later." }
                }
                label {
                    span { "Password" }
                    input name="password" type="password" required minlength="8" maxlength="1000"
                        autocomplete="new-password" aria-describedby="password-help";
                    small #password-help { "At least 8 characters." }
                }
                label {
                    span { "E-mail " em { "(optional)" } }
                    input name="email" type="email" value=(form.email) autocomplete="email";
                }
                button type="submit" { "Sign up" }
            }
            p.aside { "Here before? " a href="/login" { "Log in" } }
        }
    };
    page(frame, "Sign up", Here::SignUp, &content)
}

/// The form to log in with.
#[must_use]
pub fn log_in(frame: &Frame, form: &LogInForm) -> Markup {
    let content = html! {
        section.narrow {
            h1 { "Welcome back" }
            (refusal(form.refused.as_deref()))
            form.stack method="post" action="/login" {
                @if let Some(back) = &form.back { input type="hidden" name="back" value=(back); }
                label {
                    span { "Name" }
                    input name="name" value=(form.name) required autofocus autocomplete="username"
                        autocapitalize="none" spellcheck="false";
                }
                label {
                    span { "Password" }
                    input name="password" type="password" required autocomplete="current-password";
                }
                button type="submit" { "Log in" }
            }
            p.aside { "New here? " a href="/signup" { "Sign up" } }
        }
    };
    page(frame, "Log in", Here::LogIn, &content)
}
