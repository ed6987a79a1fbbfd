//! Why a request got its class: one name for metrics, one sentence for people, one way to change it.

use std::fmt;

/// Why a request is a read or a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The operator's rule of this index, counted from 0.
    Rule(u16),
    // Reads.
    SafeMethod,
    GraphqlQuery,
    GrpcListed,
    GrpcNoSideEffects,
    JsonRpcListed,
    SearchPath,
    GitFetch,
    // Writes that nothing overrides.
    Connect,
    Trace,
    Upgrade,
    MethodOverride,
    NonCanonicalPath,
    OneUseCredentials,
    // Writes unless a rule says otherwise.
    UnsafeMethod,
    BodyOnSafeMethod,
    EventStream,
    ConsumedQueryKey,
    MalformedQuery,
    SuspiciousQuery,
    SuspiciousPath,
    GitPush,
    // Writes because what was opted in is not plainly a read.
    GraphqlMutation,
    GraphqlSubscription,
    GraphqlStored,
    GraphqlMalformed,
    GrpcUnlisted,
    JsonRpcUnlisted,
    JsonRpcNotification,
    JsonRpcMalformed,
    BodyType,
    BodyEncoded,
    BodyMalformed,
    BodyTooLarge,
}

impl Reason {
    /// The label in metrics; stable.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rule(_) => "rule",
            Self::SafeMethod => "safe_method",
            Self::GraphqlQuery => "graphql_query",
            Self::GrpcListed => "grpc_listed",
            Self::GrpcNoSideEffects => "grpc_no_side_effects",
            Self::JsonRpcListed => "jsonrpc_listed",
            Self::SearchPath => "search_path",
            Self::GitFetch => "git_fetch",
            Self::Connect => "connect",
            Self::Trace => "trace",
            Self::Upgrade => "upgrade",
            Self::MethodOverride => "method_override",
            Self::NonCanonicalPath => "non_canonical_path",
            Self::OneUseCredentials => "one_use_credentials",
            Self::UnsafeMethod => "unsafe_method",
            Self::BodyOnSafeMethod => "body_on_safe_method",
            Self::EventStream => "event_stream",
            Self::ConsumedQueryKey => "consumed_query_key",
            Self::MalformedQuery => "malformed_query",
            Self::SuspiciousQuery => "suspicious_query",
            Self::SuspiciousPath => "suspicious_path",
            Self::GitPush => "git_push",
            Self::GraphqlMutation => "graphql_mutation",
            Self::GraphqlSubscription => "graphql_subscription",
            Self::GraphqlStored => "graphql_stored",
            Self::GraphqlMalformed => "graphql_malformed",
            Self::GrpcUnlisted => "grpc_unlisted",
            Self::JsonRpcUnlisted => "jsonrpc_unlisted",
            Self::JsonRpcNotification => "jsonrpc_notification",
            Self::JsonRpcMalformed => "jsonrpc_malformed",
            Self::BodyType => "body_type",
            Self::BodyEncoded => "body_encoded",
            Self::BodyMalformed => "body_malformed",
            Self::BodyTooLarge => "body_too_large",
        }
    }

    /// What an operator would do to get the other class; `None` when nothing can.
    pub const fn remedy(self) -> Option<&'static str> {
        match self {
            Self::Rule(_) => Some("change this rule, or put another one before it"),
            Self::SafeMethod
            | Self::GraphqlQuery
            | Self::GrpcNoSideEffects
            | Self::GrpcListed
            | Self::JsonRpcListed
            | Self::SearchPath
            | Self::GitFetch => Some("a rule with class = \"write\""),
            Self::Connect
            | Self::Trace
            | Self::Upgrade
            | Self::MethodOverride
            | Self::NonCanonicalPath
            | Self::OneUseCredentials => None,
            Self::UnsafeMethod => Some(
                "a rule with class = \"read\", or an opt-in such as graphql_paths, grpc_methods or search_paths",
            ),
            Self::GitPush
            | Self::BodyOnSafeMethod
            | Self::EventStream
            | Self::ConsumedQueryKey
            | Self::MalformedQuery
            | Self::SuspiciousQuery
            | Self::SuspiciousPath => {
                Some("a rule with class = \"read\", if it is certain to have no effect")
            }
            Self::GraphqlMutation
            | Self::GraphqlSubscription
            | Self::GraphqlStored
            | Self::GraphqlMalformed
            | Self::BodyType
            | Self::BodyEncoded
            | Self::BodyMalformed
            | Self::BodyTooLarge
            | Self::JsonRpcNotification
            | Self::JsonRpcMalformed => Some("another request: what is parsed is read as strictly as this"),
            Self::GrpcUnlisted => Some("list the method in grpc_methods, or mark it NO_SIDE_EFFECTS"),
            Self::JsonRpcUnlisted => Some("list the method in jsonrpc_methods"),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rule(index) => return write!(f, "rule {index} matches"),
            Self::SafeMethod => "the method is safe and nothing suggests an effect",
            Self::GraphqlQuery => "the GraphQL document holds queries only",
            Self::GrpcListed => "the gRPC method is listed as a read",
            Self::GrpcNoSideEffects => "the descriptor set marks the gRPC method NO_SIDE_EFFECTS",
            Self::JsonRpcListed => "every JSON-RPC method called is listed as a read",
            Self::SearchPath => "a search whose criteria travel in the body",
            Self::GitFetch => "git fetch or clone",
            Self::Connect => "CONNECT opens a tunnel",
            Self::Trace => "TRACE reflects the request, and no instance should answer it",
            Self::Upgrade => "the connection is to be upgraded to another protocol",
            Self::MethodOverride => "the request asks to be treated as another method",
            Self::NonCanonicalPath => "an instance may resolve the path differently from how it is written",
            Self::OneUseCredentials => "the credentials are bound to one connection or one use",
            Self::UnsafeMethod => "the method is not a safe one",
            Self::BodyOnSafeMethod => "a safe method with a body has no defined meaning",
            Self::EventStream => "the answer would be an endless event stream",
            Self::ConsumedQueryKey => "a query key is one that is used up by its first use",
            Self::MalformedQuery => "a query key cannot be decoded",
            Self::SuspiciousQuery => "the query names an action",
            Self::SuspiciousPath => "the path names an action",
            Self::GitPush => "the first half of a git push",
            Self::GraphqlMutation => "the GraphQL document holds a mutation",
            Self::GraphqlSubscription => "the GraphQL document holds a subscription",
            Self::GraphqlStored => "the GraphQL request has no document of its own or refers to a stored one",
            Self::GraphqlMalformed => "the GraphQL request does not parse",
            Self::GrpcUnlisted => "the gRPC method is not known to be a read",
            Self::JsonRpcUnlisted => "a JSON-RPC method called is not listed as a read",
            Self::JsonRpcNotification => "a JSON-RPC notification expects an effect, not an answer",
            Self::JsonRpcMalformed => "the body is not a JSON-RPC request",
            Self::BodyType => "the body's content type is not one that can be classified",
            Self::BodyEncoded => "the body is compressed and was not looked into",
            Self::BodyMalformed => "the body does not parse, or repeats a member",
            Self::BodyTooLarge => "the body is too large to be parsed",
        })
    }
}
