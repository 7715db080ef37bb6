"""The keys that LiteLLM 1.109 reads, per section of its file, to distinguish misspelt from unsupported ones.

Only what users set: other names in LiteLLM's module, such as constants, clients and lists of models, are left out.
"""

from __future__ import annotations

from typing import Final


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


NAMES: Final[dict[str, frozenset[str]]] = {
    "the top of the file": _words(
        """
        agents assistant_settings callback_settings credential_list default_vertex_config environment_variables
        files_settings finetune_settings general_settings guardrails include litellm_settings mcp_servers
        mcp_tools model_list pass_through_endpoints plugins policies policy_attachments prompts router_settings
        sandbox_tools search_tools vector_store_registry worker_registry
        """
    ),
    "model_list": _words(
        """
        litellm_params model_info model_name
        """
    ),
    "litellm_params": _words(
        """
        adaptive_router_config adaptive_router_default_model additional_drop_params
        allow_client_keepalive_override allowed_openai_params anthropic_disable_workload_identity_federation
        anthropic_federation_rule_id anthropic_federation_workspace_id anthropic_identity_source
        anthropic_identity_token anthropic_identity_token_file anthropic_issuer_audience
        anthropic_issuer_signing_key_ref anthropic_issuer_subject anthropic_issuer_ttl_seconds
        anthropic_issuer_url anthropic_keycloak_auth_method anthropic_keycloak_client_id
        anthropic_keycloak_client_secret_ref anthropic_keycloak_scope anthropic_keycloak_token_url
        anthropic_organization_id anthropic_service_account_id api_base api_key api_version audio
        auto_router_config auto_router_config_path auto_router_default_model auto_router_embedding_model
        auto_router_max_input_chars auto_router_model_compression auto_router_routing_compression
        aws_access_key_id aws_batch_role_arn aws_bedrock_client aws_bedrock_control_plane_endpoint
        aws_bedrock_project_id aws_bedrock_runtime_endpoint aws_external_id aws_profile_name aws_region
        aws_region_name aws_role_name aws_secret_access_key aws_session_name aws_session_tags aws_session_token
        aws_sts_endpoint aws_web_identity_token azure_ad_token azure_ad_token_provider azure_password
        azure_scope azure_username base_url bedrock_tags bucket_name budget_duration
        cache_control_injection_points cache_creation_input_token_cost cache_creation_input_token_cost_above_1hr
        cache_read_input_token_cost cache_read_input_token_cost_above_200k_tokens chat_template_kwargs
        chatgpt_auth_file client_id client_secret complexity_router_config complexity_router_default_model
        configurable_clientside_auth_params cooldown_time cost_per_second custom_llm_provider daily_reset_time
        default_api_key_max_parallel_requests default_api_key_rpm_limit default_api_key_tpm_limit dimensions
        drop_params embedding_model encoding_format extra_body extra_headers fallbacks fireworks_forward_user_id
        frequency_penalty function_call functions gcs_bucket_name headers index_name input_cost_per_audio_token
        input_cost_per_character input_cost_per_image input_cost_per_pixel input_cost_per_request
        input_cost_per_second input_cost_per_text_message input_cost_per_token
        input_cost_per_token_above_128k_tokens input_cost_per_token_above_200k_tokens input_type itpm keep_alive
        keepalive_seconds kubernetes_pod_discovery litellm_credential_name litellm_system_prompt
        litellm_trace_id logit_bias logprobs max_budget max_completion_tokens max_file_size_mb
        max_parallel_requests max_retries max_tokens merge_reasoning_content_in_choices metadata milvus_db_name
        milvus_partition_names milvus_text_field min_p mock_response modalities model n num_ctx num_retries
        openai_identity_provider_id openai_identity_token_file openai_service_account_id order organization otpm
        output_cost_per_audio_token output_cost_per_image output_cost_per_pixel output_cost_per_reasoning_token
        output_cost_per_second output_cost_per_second_1080p output_cost_per_second_2k
        output_cost_per_second_480p output_cost_per_second_4k output_cost_per_second_720p
        output_cost_per_second_768p output_cost_per_token output_cost_per_token_above_128k_tokens
        output_cost_per_token_above_200k_tokens parallel_tool_calls prediction presence_penalty prompt_cache_key
        provider_affinity_header quality_router_config quality_router_default_model reasoning_effort region_name
        repeat_penalty response_format responses_api_version rpd rpm s3_access_key_id s3_bucket_name
        s3_bucket_owner s3_encryption_key_id s3_endpoint_url s3_output_bucket_name s3_region_name
        s3_secret_access_key safety_identifier safety_settings search_context_cost_per_query seed service_tier
        silent_model stop store stream stream_options stream_timeout stream_timeout_by_service_tier
        supports_system_message tag_regex tags temperature tenant_id think thinking
        thought_signature_in_tool_call_id timeout timeout_by_service_tier token_exchange_audience
        token_exchange_endpoint token_exchange_profile token_exchange_scope tool_choice tools top_k top_logprobs
        top_p tpd tpm use_chat_completions_api use_in_pass_through use_litellm_proxy use_xai_oauth user
        valkey_embedding_field valkey_host valkey_password valkey_port valkey_ssl valkey_text_field
        vector_bucket_name vector_store_id verbosity vertex_ai_location vertex_ai_project vertex_credentials
        vertex_location vertex_project watsonx_region_name web_search_options weight
        """
    ),
    "model_info": _words(
        """
        MAX_COST_PER_PTU_PER_HOUR MAX_PTU_COUNT access_groups access_windows allow_fail_open base_model blocked
        cache_creation_input_token_cost cache_read_input_token_cost cost_per_ptu_per_hour created_at created_by
        db_model description disable_background_health_check discoverable enable_tag_filtering
        enforce_supported_endpoints health_check_max_tokens health_check_model health_check_timeout
        health_check_voice id input_cost_per_audio_token input_cost_per_image input_cost_per_second
        input_cost_per_token internal_router_model key litellm_provider max_embedding_batch_size
        max_input_tokens max_output_tokens max_tokens member_auto_router mode output_cost_per_audio_token
        output_cost_per_second output_cost_per_token output_vector_size pricing_provider ptu_count
        ptu_effective_from ptu_effective_to ptu_shares supported_environments supported_openai_params
        supports_assistant_prefill supports_audio_input supports_audio_output supports_computer_use
        supports_function_calling supports_native_streaming supports_parallel_function_calling
        supports_pdf_input supports_prompt_caching supports_reasoning supports_response_schema
        supports_system_messages supports_tool_choice supports_url_context supports_vision supports_web_search
        team_id team_public_model_name tier updated_at updated_by
        """
    ),
    "router_settings": _words(
        """
        alerting_config allowed_fails allowed_fails_policy assistants_config auto_router_capability_limit
        background_health_check_model_groups cache_kwargs cache_responses caching_groups client_ttl
        content_policy_fallbacks context_window_fallbacks cooldown_time debug_level default_fallbacks
        default_litellm_params default_max_parallel_requests default_priority deployment_affinity_ttl_seconds
        disable_cooldowns enable_health_check_routing enable_mid_stream_fallback_continuation
        enable_pre_call_checks enable_tag_filtering enable_weighted_failover fallback_access_check
        fallback_budget_check fallback_on_unsupported_params fallbacks guardrail_list
        health_check_ignore_transient_errors health_check_staleness_threshold ignore_invalid_deployments
        max_fallbacks model_group_affinity_config model_group_alias model_group_retry_policy num_retries
        optional_pre_call_checks plugins polling_interval provider_budget_config redis_db redis_host
        redis_password redis_port redis_url retry_after retry_policy router_general_settings routing_groups
        routing_strategy routing_strategy_args search_tools session_affinity_repin_on_failover set_verbose
        stream_timeout tag_filtering_match_any tag_routing_prefix timeout weights
        """
    ),
    "litellm_settings": _words(
        """
        add_function_to_prompt add_user_information_to_llm_headers agent_search_embedding_model
        aiohttp_trust_env allow_dynamic_callback_disabling allowed_fails anthropic_beta_headers_url
        anthropic_messages_estimate_initial_input_tokens anthropic_prompt_caching_ttl
        anthropic_sse_ping_interval_seconds api_base api_version apply_search_free_tier argilla_batch_size
        audit_log_callbacks autorouter_presets_url aws_sqs_callback_params banned_keywords_list
        batch_line_item_callbacks bedrock_neutralize_orphaned_tool_blocks bedrock_request_metadata_fields
        block_requests_for_models_without_pricing blocked_user_list blog_posts_url budget_duration
        budget_exceeded_status_code budget_exceeded_throttle_percentage budget_rollover cache cache_params
        caching callback_settings callbacks check_provider_endpoint cold_storage_custom_logger
        content_policy_fallbacks context_window_fallbacks cost_discount_config cost_margin_config
        credential_list custom_prometheus_metadata_labels custom_prometheus_tags custom_prompt_dict
        custom_provider_map datadog_llm_observability_params datadog_params datadog_use_v1 default_fallbacks
        default_in_memory_ttl default_internal_user_params default_key_generate_params
        default_key_max_budget_alert_emails default_max_internal_user_budget default_redis_batch_cache_expiry
        default_redis_ttl default_soft_budget default_team_params default_team_settings default_vertex_config
        disable_add_prefix_to_prompt disable_add_transform_inline_image_block
        disable_add_user_agent_to_request_tags disable_aiohttp_transport disable_aiohttp_trust_env
        disable_anthropic_gemini_context_caching_transform disable_copilot_system_to_assistant
        disable_end_user_cost_tracking disable_end_user_cost_tracking_prometheus_only
        disable_hf_tokenizer_download disable_stop_sequence_limit disable_streaming_logging
        disable_token_counter disable_vertex_batch_output_transformation drop_params dynamodb_table_name
        enable_anthropic_prompt_caching enable_azure_ad_token_refresh
        enable_caching_on_provider_specific_optional_params enable_end_user_cost_tracking_prometheus_only
        enable_gemini_default_thinking_level_low enable_json_schema_validation
        enable_key_alias_format_validation enable_loadbalancing_on_batch_endpoints
        enable_model_config_credential_overrides enable_preview_features error_logs
        expose_router_debug_in_errors extra_spend_tag_headers failure_callback fallbacks filter_invalid_headers
        force_ipv4 force_redis_hash_tag_grouping forward_traceparent_to_llm_provider gcs_pub_sub_use_v1
        gemini_include_thoughts_default gemini_live_defer_setup generic_api_use_v1 generic_logger_headers
        global_bitbucket_config global_disable_no_log_param global_gitlab_config
        google_moderation_confidence_threshold guardrails http2 include_cost_in_streaming_usage input_callback
        internal_user_budget_duration json_logs key_alias_pattern key_generation_settings langfuse_default_tags
        langfuse_enable_update_trace_keys langsmith_batch_size litellm_mode llamaguard_model_name
        llamaguard_unsafe_content_categories llm_guard_mode log_auth_failure_key_identity
        log_client_error_tracebacks log_raw_request_response logged_real_time_event_types max_budget
        max_end_user_budget max_end_user_budget_id max_fallbacks max_internal_user_budget max_tokens
        max_ui_session_budget max_user_budget mcp_tool_search model_alias_map model_cost_map_url model_fallbacks
        model_group_settings modify_params network_mock newrelic_params num_retries num_retries_per_request
        openai_key openai_moderations_model_name openai_system_messages_first organization
        otel_tenant_destination_mode output_parse_pii overwrite_user_with_key_hash
        personal_key_model_access_from_teams pointfive_params post_call_rules pre_call_rules predibase_tenant_id
        presidio_ad_hoc_recognizers priority_reservation prometheus_deployment_and_latency_caller_identity
        prometheus_emit_input_sequence_length_label prometheus_emit_rate_limit_labels
        prometheus_emit_stream_label prometheus_end_user_metrics_cleanup_interval_seconds
        prometheus_end_user_metrics_max_series_per_metric prometheus_end_user_metrics_ttl_seconds
        prometheus_exclude_labels prometheus_exclude_metrics prometheus_initialize_budget_metrics
        prometheus_latency_buckets prometheus_metrics_cleanup_interval_seconds prometheus_metrics_config
        prometheus_metrics_max_series_per_metric prometheus_metrics_ttl_seconds
        prometheus_user_budget_label_include_email_alias prompts provider_url_destination_allowed_hosts
        proxy_auth public_agent_groups public_mcp_hub_strict_whitelist public_mcp_servers public_model_groups
        public_model_groups_links public_skills_index reasoning_auto_summary reasoning_effort_rounding
        redact_messages_in_exceptions redact_user_api_key_info request_correlation_in_logs request_timeout
        require_auth_for_metrics_endpoint require_managed_files return_response_headers
        route_all_chat_openai_to_responses s3_audit_callback_params s3_callback_params safe_memory_mode
        service_callback set_verbose skill_search_embedding_model skip_system_message_in_guardrail
        skip_tool_message_in_guardrail sse_keepalive_ping_interval_seconds ssl_certificate ssl_ecdh_curve
        ssl_security_level ssl_verify standard_logging_payload_excluded_fields store_audit_logs
        strip_anthropic_total_tokens success_callback suppress_debug_info tag_budget_config telemetry
        turn_off_message_logging upperbound_key_generate_params use_aiohttp_transport
        use_chat_completions_url_for_anthropic_messages use_client use_litellm_proxy user_url_allowed_hosts
        user_url_validation validate_end_user_id_in_db vector_store_registry vector_store_search_failure_mode
        vertex_ai_safety_settings vertex_location vertex_project zerobus_params
        """
    ),
    "general_settings": _words(
        """
        accounting_capture accounting_sync_ack accounting_sync_ack_failure_policy
        accounting_sync_ack_timeout_seconds admin_only_routes admission_queue_timeout_seconds
        agent_access_default_deny alert_to_webhook_url alert_type_config alert_types alerting alerting_args
        alerting_threshold allow_cli_sso_verification_uri_complete allow_client_side_credentials
        allow_requests_on_db_unavailable allow_unmanaged_response_ids allow_user_auth allowed_file_extensions
        allowed_hosts allowed_ips allowed_routes always_include_stream_usage apply_user_budget_to_team_keys
        background_health_check_model_groups background_health_checks blocked_file_extensions
        cancel_on_disconnect claude_code_gateway_managed_settings claude_code_marketplace_auth_required
        completion_model control_plane_url coordination_redis custom_auth custom_auth_run_common_checks
        custom_key_generate custom_key_update custom_sso custom_ui_sso_sign_in_handler
        dangerously_permit_weak_or_unset_master_key database_args database_connect_timeout
        database_connection_pool_limit database_connection_pool_timeout database_connection_timeout
        database_disable_prepared_statements database_extra_connection_params
        database_max_idle_connection_lifetime database_socket_timeout database_type database_url
        default_team_disabled disable_auto_add_proxy_admin_to_teams disable_budget_reservation
        disable_custom_api_keys disable_env_credential_login disable_fallbacks_on_per_model_rate_limits
        disable_master_key_return disable_password_login_when_sso_enabled disable_prisma_schema_update
        disable_requester_ip_address_logging disable_reset_budget disable_responses_id_security
        disable_spend_logs disable_spend_updates enable_audit_log enable_claude_code_gateway
        enable_health_check_routing enable_jwt_auth enable_oauth enable_openai_websocket_passthrough
        enable_public_model_hub enforce_fallback_model_access enforce_rbac enforce_user_param enforced_params
        expose_fallback_errors_to_caller fail_closed_budget_enforcement fail_closed_rate_limit_enforcement
        failed_login_block_seconds failed_login_window_seconds forward_client_headers_to_llm_api
        forward_llm_provider_auth_headers forward_openai_org_id global_max_parallel_requests
        health_check_concurrency health_check_details health_check_ignore_transient_errors health_check_interval
        health_check_skip_disabled_background_models health_check_staleness_threshold health_check_timeout
        include_call_id_in_error_body infer_model_from_keys key_management_settings key_management_system
        litellm_jwtauth litellm_key_header_name litellm_license master_key max_batch_file_records
        max_batch_file_size_mb max_batch_file_uploads_per_day max_failed_login_attempts_per_source
        max_failed_login_attempts_per_source_overrides max_file_downloads_per_minute max_file_size_mb
        max_in_flight_requests_per_worker max_parallel_requests max_queued_requests_per_worker
        max_request_size_mb max_response_size_mb maximum_autorouter_session_retention_period
        maximum_daily_tag_spend_retention_period maximum_health_check_retention_period
        maximum_spend_logs_cleanup_batch_size maximum_spend_logs_cleanup_batch_timeout
        maximum_spend_logs_cleanup_max_batches maximum_spend_logs_cleanup_run_budget
        maximum_spend_logs_cleanup_target_size maximum_spend_logs_retention_interval
        maximum_spend_logs_retention_period maximum_spend_logs_size maximum_spend_logs_size_check_interval
        mcp_advertised_versions mcp_allowed_clients mcp_client_id_header mcp_disabled_capabilities
        mcp_internal_ip_ranges mcp_prefer_client_id_metadata_document mcp_require_explicit_server_scope
        mcp_required_fields mcp_trusted_proxy_ranges mcp_xff_num_trusted_hops missing_session_id
        model_list_healthy_only oauth otel pass_through_endpoints pass_through_request_timeout
        passthrough_managed_object_ids password_policy_min_length password_policy_require_lowercase
        password_policy_require_numbers password_policy_require_special_characters
        password_policy_require_uppercase plugins provider_url_destination_allowed_hosts proxy_batch_write_at
        proxy_budget_rescheduler_max_time proxy_budget_rescheduler_min_time proxy_config_reload_interval_seconds
        public_routes reject_clientside_metadata_tags request_tag_mappings
        responses_websocket_session_limit_seconds return_wildcard_routes role_permissions scheduled_job_stagger
        search_tool_deny_by_default self_serve_budget_policy service_account_settings spend_capture_rate_check
        spend_logs_metadata_fields spend_report_frequency store_model_in_db store_prompts_in_spend_logs
        supported_db_objects token_rate_limit_type tracing transcribe_media_buckets trusted_proxy_ranges
        ui_access_mode use_azure_key_vault use_google_kms use_redis_transaction_buffer use_shared_health_check
        use_spend_logs_partitioning use_team_public_model_name use_x_forwarded_for user_api_key_cache_max_size
        user_api_key_cache_ttl user_header_mappings user_header_name user_mcp_management_mode
        user_url_allowed_hosts user_url_validation vector_store_deny_by_default
        vertex_ai_pass_through_drop_anthropic_betas
        """
    ),
    "cache_params": _words(
        """
        azure_account_url azure_blob_container db default_in_memory_ttl default_in_redis_ttl disk_cache_dir
        gcp_service_account gcp_ssl_ca_certs gcs_bucket_name gcs_path gcs_path_service_account host
        max_connections max_messages mode namespace password port qdrant_api_base qdrant_api_key
        qdrant_collection_name qdrant_quantization_config qdrant_semantic_cache_embedding_model
        qdrant_semantic_cache_vector_size redis_flush_size redis_semantic_cache_embedding_model
        redis_semantic_cache_index_name redis_startup_nodes s3_api_version s3_aws_access_key_id
        s3_aws_secret_access_key s3_aws_session_token s3_bucket_name s3_config s3_endpoint_url s3_path
        s3_region_name s3_use_ssl s3_verify semantic_cache_scope sentinel_nodes sentinel_password service_name
        similarity_threshold socket_timeout ssl ssl_ca_certs ssl_cert_reqs ssl_check_hostname startup_nodes
        supported_call_types ttl type url username
        """
    ),
}

ALIKE: Final = _words(
    """
    abliteration aiand aihubmix aiml aiohttp_openai anyscale apertis chutes clf_ai_gateway cognition cometapi coralbricks
    cortecs crusoe darkbloom edenai empiriolabs empower galadriel gmi hostinger_router inception inferenceapis kyma lemonade
    libertai llamagate meta minimax modelscope morph nano-gpt neosantara openinfer ovhcloud parasail pinstripes poe prism
    publicai qwen_ai_platform qwencloud reka refuseless sail sarvam scaleway scx-ai streamlake synthetic tencent tensormesh v0
    veniceai wandb xiaomi_mimo xinference zerogpu
    """
)
"""Prefixes that LiteLLM removes, and then uses OpenAI's API at the ``api_base``."""
FOREIGN: Final = _words(
    """
    a2a a2a_agent amazon_nova auto_router aws_polly bedrock_mantle bytez charity_engine clarifai cloudflare compactifai custom
    cursor databricks_agent datarobot docker_model_runner dotprompt gdc gigachat github_copilot chatgpt gradient_ai helicone
    heroku infinity jina_ai langflow langgraph manus maritalk nadir nlp_cloud oci oobabooga petals predibase ragflow replicate
    runwayml sagemaker sagemaker_chat sagemaker_nova sap snowflake text-completion-codestral text-completion-inception
    triton vllm watsonx watsonx_text
    """
)
"""Prefixes for which LiteLLM uses an API other than OpenAI's at the ``api_base``, or runs the model itself."""
